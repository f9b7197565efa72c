"""A state as a tree of dictionaries with tensors as leaves, and each leaf by its keys or by one name."""

from typing import Any

from torch import Tensor

Keys = tuple[Any, ...]
"""From the root of a tree to a leaf."""


def leaves(tree: Any, path: Keys = ()) -> dict[str, Keys]:
    """The keys to every tensor that hangs in dictionaries, by pointer."""
    if isinstance(tree, Tensor):
        return {pointer(path): path}
    inner = tree.items() if isinstance(tree, dict) else ()
    return {name: keys for key, value in inner for name, keys in leaves(value, (*path, key)).items()}


def at(tree: Any, path: Keys) -> Any:
    """The leaf at these keys."""
    for key in path:
        tree = tree[key]
    return tree


def without(tree: Any, paths: dict[str, Keys], path: Keys = (), *, keep: bool) -> Any:
    """A tree with None at these places or, if they are not to be kept, without them."""
    if pointer(path) in paths:
        return None
    if not isinstance(tree, dict):
        return tree
    inner = {key: (*path, key) for key in tree}
    left = {key: keys for key, keys in inner.items() if keep or pointer(keys) not in paths}
    return {key: without(tree[key], paths, keys, keep=keep) for key, keys in left.items()}


def pointer(path: Keys) -> str:
    """JSON pointer (RFC 6901), in which a name may hold any character."""
    return "".join("/" + str(key).replace("~", "~0").replace("/", "~1") for key in path)


def put(tree: dict[str, Any], path: Keys, value: Tensor) -> None:
    """Hang a leaf into a tree, on branches of its own where there are none."""
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value
