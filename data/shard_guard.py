"""What is checked while shards are opened and read, so that no run ends normally with fewer or other samples.

Cheap things only: names and hashes in the manifest when a folder is opened; counts, keys and the end of the tar
when a shard is first used; the header and the checksum of every member that is read. What touches nothing that is
read, such as the header of a `json`, is left to `jepa lint`, which reads everything.
"""

import io
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from jepa.data.index import Member, Row, ShardEntry, fingerprint_of, row_at
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
    path, shards = files.store.where(MANIFEST), files.manifest.shards
    first: dict[str, ShardEntry] = {}
    for shard in shards:
        if (other := first.setdefault(shard.digest, shard)) is not shard:
            raise DataError(f"{path} lists {shard.file}, which holds the samples of {other.file} again: pack again")
    if files.manifest.fingerprint != fingerprint_of(shards):
        raise DataError(f"{path} lists other shards than it was written for: copy it again, or pack again")
    if unlisted := sorted(files.tars() - {shard.file for shard in shards}):
        raise DataError(f"{files.store.where(unlisted[0])} is not listed in {MANIFEST}: move it away, or pack again")


def check_index(path: str, table: Any, entry: ShardEntry) -> None:
    """An index is sound, and has as many samples as the manifest says, each with a key of its own.

    Raises:
        DataError: it is not, or has not.
    """
    check_table(path, table)
    if table.num_rows != entry.count:
        raise DataError(f"shard {path} lists {table.num_rows} samples, {MANIFEST} says {entry.count}")
    if len(table["key"].unique()) != table.num_rows:
        raise DataError(f"shard {path} lists a key twice: `jepa lint` names it")


def check_table(path: str, table: Any) -> None:
    """The columns of an index are sound: a wrong length inside would make the process read anywhere, and crash.

    Raises:
        DataError: they are not.
    """
    try:
        table.validate(full=True)
    except pa.ArrowException as error:
        raise DataError(f"{path} is damaged: {str(error).splitlines()[0]}") from None


def sound_row(path: str, table: Any, number: int) -> Row:
    """A row of an index.

    Raises:
        DataError: its labels are damaged.
    """
    try:
        return row_at(table, number)
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}, row {number}: damaged, {error}") from None


def check_tail(store: Store, entry: ShardEntry, table: Any) -> None:
    """Behind the last member that the index lists comes nothing that it should list.

    Members that were added to a tar (`tar --append`) may fit into its padding, so that its size stays.

    Raises:
        DataError: a sample that the index does not list, a member for the second time, or a damage.
        StoreError: the tar cannot be read.
    """
    last = _last_member(table)
    if last is None:
        return
    problem = _tail_problem(store, entry, table, last)
    # What a cache kept of it may be wrong, and the file right.
    if problem and store.forget(entry.file, last - BLOCK, entry.bytes - last + BLOCK):
        problem = _tail_problem(store, entry, table, last)
    if problem:
        raise DataError(f"shard {store.where(entry.file)}, {problem}")


def _tail_problem(store: Store, entry: ShardEntry, table: Any, last: int) -> str | None:
    """The first thing wrong behind the member whose content begins at `last`."""
    stream = io.BufferedReader(StoredFile(store, entry.file, entry.bytes))
    for found in walk(stream, entry.bytes, start=last - BLOCK):
        if found.offset <= last:
            continue  # what is wrong with the last member itself is said when it is read
        if isinstance(found, TarDamage):
            return f"byte {found.offset}: {found.what}; `jepa lint` finds all damage"
        if _should_be_listed(found.name, table):
            return f"byte {found.header}: {printable(found.name)} was added after the index was written; pack again"
    return None


def _should_be_listed(name: str, table: Any) -> bool:
    """Whether a member is one that the index lists, or is of a sample that it does not list."""
    parts = split_name(name)
    if parts is None:
        return False
    number = pc.index(table["key"], parts[0]).as_py()
    if number < 0:
        return True
    row = row_at(table, number)
    return parts[1] in {member.name for member in (row.video, *row.extras)}


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


def _last_member(table: Any) -> int | None:
    """Place of the content of the member behind all others that the index lists."""
    places = [pc.max(pc.struct_field(table["video"], "offset")).as_py()]
    extras = pc.list_flatten(table["extras"])
    places.append(pc.max(pc.struct_field(extras, "offset")).as_py())
    return max((place for place in places if place is not None), default=None)
