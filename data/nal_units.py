"""The units that a packet of H.264 or HEVC consists of, and whether decoding can really start with it.

A keyframe of H.264 need not be a fresh start: an encoder that spreads the refresh over many frames (`intra-refresh`)
marks a *recovery point*, from where on the picture gets whole piece by piece. Containers and FFmpeg call it a keyframe
too; decord starts there and gives the pictures in between with holes. Only an IDR picture cuts all ties to the past.
"""

from collections.abc import Iterator

H264_IDR = 5


def units(codec: str, packet: bytes, extradata: bytes) -> Iterator[bytes]:
    """Units of a packet in which each has its length in front, as mp4 and mkv store them; none of any other packet.

    Args:
        codec: h264 or hevc.
        packet: one picture.
        extradata: what the container keeps outside of the packets; says how long the lengths are.
    """
    place = 4 if codec == "h264" else 21
    if len(extradata) <= place or extradata[0] != 1:
        return
    prefix, start = (extradata[place] & 3) + 1, 0
    while start + prefix < len(packet):
        end = start + prefix + int.from_bytes(packet[start : start + prefix])
        yield packet[start + prefix : end]
        start = end


def starts_afresh(codec: str, packet: bytes, extradata: bytes) -> bool:
    """Whether a keyframe needs nothing before it; only of H.264 is this in doubt, and False where it cannot be told."""
    if codec != "h264":
        return True
    return any(unit and unit[0] & 0x1F == H264_IDR for unit in units(codec, packet, extradata))
