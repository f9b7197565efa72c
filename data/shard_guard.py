"""What is checked while shards are opened and read, so that no run ends normally with fewer or other samples.

Cheap things only: names and hashes in the manifest when a folder is opened; the hash, counts, sums and keys of an index
and the end of its tar when a shard is first used; the header and the checksum of every member that is read. What
touches nothing that is read, such as the header of a `json`, is left to `jepa lint`, which reads everything.
"""

import io

import pyarrow.compute as pc

from jepa.data.index import ShardEntry, fingerprint_of
from jepa.data.rows import Member, Rows
from jepa.data.shard_files import ShardFiles
from jepa.data.source import MANIFEST, printable
from jepa.data.storage import Store, StoredFile
from jepa.data.tar_walk import BLOCK, FILE_TYPES, LARGE, NAME_BYTES, TarDamage, parse_header, split_name, walk
from jepa.errors import DataError


def check_shards(files: ShardFiles) -> None:
    """Nothing may be read twice or left out without a word.

    Raises:
        DataError: a shard holds what another one holds, or is not listed; or the manifest was changed.
    """
    path, shards = files.where(MANIFEST), files.manifest.shards
    again, first = _again(files), dict[str, ShardEntry]()
    for shard in shards:
        if (other := first.setdefault(shard.digest, shard)) is not shard:
            raise DataError(f"{path} lists {shard.file}, which holds the samples of {other.file} again: {again}")
    if files.manifest.fingerprint != fingerprint_of(shards):
        raise DataError(f"{path} lists other shards than it was written for: copy it again, or {again}")
    if unlisted := sorted(files.tars() - {shard.file for shard in shards} - {*files.manifest.left_out}):
        raise DataError(f"{files.store.where(unlisted[0])} is not listed in {MANIFEST}: move it away, or {again}")


def _again(files: ShardFiles) -> str:
    """How the manifest is made again."""
    return "run `jepa index` again" if files.manifest.provenance.get("made_by") == "jepa index" else "pack again"


def check_index(path: str, rows: Rows, entry: ShardEntry) -> None:
    """An index has as many samples as the manifest says, each with a key of its own, and the sums that it says.

    Raises:
        DataError: it has not.
    """
    if len(rows) != entry.count:
        raise DataError(f"shard {path} lists {len(rows)} samples, {MANIFEST} says {entry.count}")
    if len(rows.keys.unique()) != len(rows):
        raise DataError(f"shard {path} lists a key twice: `jepa lint` names it")
    if problem := sums_problem(rows, entry):
        raise DataError(f"shard {path}: {problem}")


def sums_problem(rows: Rows, entry: ShardEntry) -> str | None:
    """What the manifest says otherwise of an index than its rows, if anything is."""
    if not len(rows):
        return None
    said = (entry.frames, entry.least_frames, entry.most_fps, entry.least_fps)
    frames, fps = rows.frames, rows.fps
    if said == (int(frames.sum()), int(frames.min()), float(fps.max()), float(fps.min())):
        return None
    return f"{MANIFEST} has other sums of its frames and rates than its rows give"


def check_tail(store: Store, entry: ShardEntry, rows: Rows) -> None:
    """Behind the last member that the index lists comes nothing that it should list.

    Members that were added to a tar (`tar --append`) may fit into its padding, so that its size stays.

    Raises:
        DataError: a sample that the index does not list, a member for the second time, or a damage.
        StoreError: the tar cannot be read.
    """
    last = rows.last_content()
    if last is None:
        return
    problem = _tail_problem(store, entry, rows, last)
    # What a cache kept of it may be wrong, and the file right.
    if problem and store.forget(entry.file, last - BLOCK, entry.bytes - last + BLOCK):
        problem = _tail_problem(store, entry, rows, last)
    if problem:
        raise DataError(f"shard {store.where(entry.file)}, {problem}")


def _tail_problem(store: Store, entry: ShardEntry, rows: Rows, last: int) -> str | None:
    """The first thing wrong behind the member whose content begins at `last`."""
    stream = io.BufferedReader(StoredFile(store, entry.file, entry.bytes))
    for found in walk(stream, entry.bytes, start=last - BLOCK):
        if found.offset <= last:
            continue  # what is wrong with the last member itself is said when it is read
        if isinstance(found, TarDamage):
            return f"byte {found.offset}: {found.what}; `jepa lint` finds all damage"
        if _should_be_listed(found.name, rows):
            return f"byte {found.header}: {printable(found.name)} was added after the index was written; pack again"
    return None


def _should_be_listed(name: str, rows: Rows) -> bool:
    """Whether a member is one that the index lists, or is of a sample that it does not know of."""
    parts = split_name(name)
    if parts is None:
        return False
    key = printable(parts[0])
    number = pc.index(rows.keys, key).as_py()
    if number < 0:
        return key not in {skipped for skipped, _ in rows.notes.skipped}
    return parts[1] in {member.name for member in (rows.video(number), *rows.extras(number))}


def header_problem(block: bytes, key: str, member: Member) -> str | None:
    """What is wrong with the header block (512 bytes) before a member, if anything is."""
    header = parse_header(block)
    if isinstance(header, str):
        return f"{member.name} is damaged, {header}"
    name = f"{key}.{member.name}"
    # Longer names, and those outside ASCII, stand in an extended header.
    same = header.name.removeprefix("./") == name or len(name) > NAME_BYTES or not name.isascii()
    if not same or header.type not in FILE_TYPES or (header.size != member.size and member.size < LARGE):
        return f"the header of {member.name} is that of another member"
    return None
