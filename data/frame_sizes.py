"""Whether the size of the frames may change in the middle of a video, told from packets without decoding them.

Recordings of calls change it whenever the network does. decord then scales every frame to the size of the first, in
silence; PyAV refuses them (`jepa.data.decoders.pyav_backend`). So what is known of a keyframe's size is compared:
VP8 and VP9 say it in its header; H.264 and HEVC say it in a parameter set, which mp4 and mkv keep outside of the
packets, and which is suspicious inside of them if it is another one. (VP9 may also change the size between
keyframes; nothing but decoding tells that.)
"""

from collections.abc import Iterator

from jepa.data.nal_units import units


def size_mark(codec: str, packet: bytes, extradata: bytes) -> bytes:
    """A mark that differs between keyframes of different sizes; empty where the packet says nothing new.

    Args:
        packet: of a keyframe.
        extradata: what the container keeps outside of the packets.
    """
    if codec == "vp8":
        return packet[6:10]  # behind the frame tag and the start code: 14 bits of width, 14 of height, 2 + 2 of scale
    if codec == "vp9":
        # Profile 0: a byte of flags, 3 of sync code; 3 bits of colour space, 1 of range, 16 of width, 16 of height.
        return (int.from_bytes(packet[4:9]) >> 4 & 0xFFFF_FFFF).to_bytes(4)
    if codec in ("h264", "hevc"):
        return b"".join(unit for unit in _parameter_sets(codec, packet, extradata) if unit not in extradata)
    return b""


def _parameter_sets(codec: str, packet: bytes, extradata: bytes) -> Iterator[bytes]:
    """Sequence parameter sets in a packet of length-prefixed units."""
    for unit in units(codec, packet, extradata):
        if unit and (unit[0] & 0x1F == 7 if codec == "h264" else unit[0] >> 1 & 0x3F == 33):
            yield unit
