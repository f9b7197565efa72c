"""The decoders behind `jepa.data.decode`, one file each; nobody else imports them."""
