"""User-Mode Linux kernels: without and with extents.

The first takes about five minutes on two cores. The second differs in few files, and is built behind the first in the same
tree where both are missing.
"""

from pathlib import Path

from . import cache, kbuild

PATCHES = ("uml-*.patch",)
EXTENTS_PATCHES = (*PATCHES, "extents-7*.patch")


def recipe(name: str, fragments: tuple[str, ...], patterns: tuple[str, ...]) -> kbuild.Recipe:
    """A kernel for ARCH=um, whose fragments come behind uml.config."""
    return kbuild.Recipe(name, "um", "defconfig", "linux", "linux", ("uml.config", *fragments), patterns)


RECIPES = {
    "uml": recipe("uml", (), PATCHES),
    "uml-extents": recipe("uml-extents", ("extents.config",), EXTENTS_PATCHES),
    "uml-extents-debug": recipe("uml-extents-debug", ("extents.config", "debug.config"), EXTENTS_PATCHES),
}
# What debug.config asks for is in every file: that one has nothing of another's tree.
ONE_TREE = ("uml", "uml-extents")


def kernel(name: str = "uml") -> Path:
    """Path of the UML binary `name` (a key of RECIPES), built when it is not in the cache."""
    RECIPES[name].check()
    source = kbuild.Source()
    binary = place(name, source)
    if not binary.exists():
        tree = "uml" if name in ONE_TREE else name
        with cache.locked(tree):
            if not binary.exists():
                build(name, source, tree)
    if not binary.exists():
        raise cache.BuildError(f"{name}: its configuration or a patch was changed while it was built")
    return binary


def place(name: str, source: kbuild.Source) -> Path:
    """Where the binary is kept."""
    return cache.root() / "uml" / f"{name.replace('uml', 'linux')}-{source.version}-{RECIPES[name].key()}"


def build(name: str, source: kbuild.Source, tree_name: str) -> None:
    """Builds what is asked for, and of ONE_TREE what is missing beside it; keeps only the stripped binaries."""
    others = [other for other in ONE_TREE if not (place(other, source).exists() or RECIPES[other].lacking())]
    wanted = others if name in ONE_TREE else [name]
    cache.say(f"{' and '.join(wanted)}: {source.package} {source.version}, about 5 minutes on two cores")
    try:
        with kbuild.unpacked_tree(source, cache.root() / "uml" / f"work-{tree_name}", tree_name) as tree:
            for other in wanted:
                # Taken when the patches are: somebody who works at them changes them meanwhile.
                target = place(other, source)
                part = target.with_name(f"{target.name}.part")
                cache.run(["strip", "-o", part, tree.build(RECIPES[other])])
                part.rename(target)
                cache.say(f"{other} is compiled")
    except cache.BuildError as error:
        # A mistake in the second kernel does not take the first from who asked for that.
        if not place(name, source).exists():
            raise
        cache.say(f"going on with {name} alone: {error}")
