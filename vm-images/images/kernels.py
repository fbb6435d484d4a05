"""Kernels as QEMU starts them: stock Debian cloud kernels, and kernels of our own.

Of a stock kernel there are the bare image and a few of its modules: virtio-fs and virtio-pci are built in, so a guest
mounts a share without any module. A small set (loop, XFS, overlay, virtio-blk) is unpacked into a second archive for
suites that compare file systems. Our own have everything built in.
"""

import lzma
import re
import shutil
from pathlib import Path

from . import cache, cpio, debian, kbuild

# name -> (series to look in, which kernel versions)
STOCK = {
    "5.10": (("bullseye",), r"5\.10\.0-\d+"),
    "6.1": (("bookworm",), r"6\.1\.0-\d+"),
    "6.12": (("trixie",), r"6\.12\.\d+"),
    "latest": (("trixie", "trixie-backports"), r"[789]\.\d+\.\d+"),
}
# Debian has shipped the image in packages of these names; the newest ones have no signed twin yet.
IMAGE_NAMES = r"linux-(?:image|binary)-(?:unsigned-)?{version}(?:\+[\w.~]*)?-?cloud-amd64(?:-unsigned)?"
MODULES = ("ext4", "loop", "overlay", "virtio_blk", "virtio_console", "virtio_pci", "virtiofs", "xfs")
# name -> what it is built from
OWN = {
    name: kbuild.Recipe(
        f"kernel-{name}", "x86_64", "allnoconfig", "bzImage", "arch/x86/boot/bzImage",
        ("x86_64.config", "extents.config"), (patches,), source,
    )
    for name, source, patches in (
        ("extents", "newest", "extents-7*.patch"),
        ("extents-6.12", "6.12", "extents-6.12.patch"),
    )
}  # fmt: skip


class Kernel:
    """A kernel in the cache: `image` for QEMU, `modules` (cpio archives, one or none), `release` as uname says."""

    def __init__(self, folder: Path):
        self.image = folder / "vmlinuz"
        self.modules = list(folder.glob("modules.cpio"))
        self.release = (folder / "release").read_text()


def named(name: str) -> Kernel:
    """The kernel `name`, a key of STOCK or OWN, fetched or built when it is not in the cache."""
    return own(name) if name in OWN else stock(name)


def own(name: str) -> Kernel:
    """The kernel `name` (a key of OWN), about seven minutes on two cores when it is not in the cache."""
    recipe = OWN[name]
    recipe.check()
    source = kbuild.Source(recipe.source)
    folder = cache.root() / "kernels" / f"{name}-{source.version}-{recipe.key()}"
    if not folder.exists():
        with cache.locked(recipe.name):
            if not folder.exists():
                cache.say(f"{recipe.name}: {source.package} {source.version}, about 7 minutes on two cores")
                work = cache.root() / "kernels" / f"work-{name}"
                with kbuild.unpacked_tree(source, work, recipe.name) as tree, cache.fresh_folder(folder) as kept:
                    shutil.copyfile(tree.build(recipe), kept / "vmlinuz")
                    (kept / "release").write_text((tree.path / "include/config/kernel.release").read_text().strip())
    return Kernel(folder)


def stock(name: str) -> Kernel:
    """The stock kernel `name` (a key of STOCK), fetched when it is not in the cache."""
    series, pattern = STOCK[name]
    archive = debian.Archive(*series)
    package, version = archive.newest(IMAGE_NAMES.format(version=pattern))
    folder = cache.root() / "kernels" / version
    if not folder.exists():
        with cache.locked(f"kernel-{name}"):
            if not folder.exists():
                cache.say(f"stock kernel {name}: {package} {version}")
                fetch(archive, package, folder)
    return Kernel(folder)


def fetch(archive: debian.Archive, package: str, folder: Path) -> None:
    """Downloads the image and, where they are packaged apart, its modules."""
    release = re.search(r"\d+\.\d+\.\d+.*cloud-amd64", package).group()
    packages = [package, *archive.names(rf"linux-modules-{re.escape(release)}")]
    with archive.fetched(*packages) as files, cache.fresh_folder(folder) as work:
        debian.unpack(files, work / "tree")
        (image,) = [path for path in (work / "tree").rglob("vmlinuz*") if path.is_file()]
        image.rename(work / "vmlinuz")
        (work / "release").write_text(release)
        write_modules(work / "tree", work / "modules.cpio")
        cache.run(["rm", "-r", work / "tree"])


def write_modules(tree: Path, target: Path) -> None:
    """An archive of MODULES and what they depend on, and `/modules/order` to load them by."""
    found = {re.sub(r"\.ko.*", "", path.name).replace("-", "_"): path for path in tree.rglob("*.ko*")}
    order: list[str] = []
    contents: dict[str, bytes] = {}

    def add(name: str) -> None:
        # A name that is not there is built in.
        if name in contents or name not in found:
            return
        data = found[name].read_bytes()
        contents[name] = lzma.decompress(data) if found[name].suffix == ".xz" else data
        for needed in dependencies(contents[name]):
            add(needed)
        order.append(name)

    for module in MODULES:
        add(module)
    with cpio.Writer(target) as archive:
        for name in order:
            archive.file(f"modules/{name}.ko", contents[name])
        archive.file("modules/order", "".join(f"{name}\n" for name in order).encode())


def dependencies(module: bytes) -> list[str]:
    """Names in the `depends=` (and soft dependency) fields of a module's information section."""
    found = re.findall(rb"\0(?:depends=|softdep=pre: ?)([^\0]*)", module)
    return [name.replace("-", "_") for field in found for name in re.split(r"[,\s]+", field.decode()) if name]
