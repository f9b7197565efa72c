"""What things cost here, beside what they could cost: the loader beside bare decoders and the official loader."""
