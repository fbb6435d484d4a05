"""Disks of the host as a guest gets them from qemu-storage-daemon, over vhost-user-blk."""

from pathlib import Path

from . import daemon

# What its exports answer when a guest asks for the serial number; it cannot be changed (QEMU, vhost-user-blk-server.c).
SERIAL = "vhost_user_blk"


class Export(daemon.Server):
    """qemu-storage-daemon (`command`) with a disk for each of `paths`, files or block devices."""

    def __init__(self, command: list[str], paths: list[Path], sockets: list[Path], queues: int, log: Path):
        self.sockets = sockets
        words = []
        for number, (path, socket) in enumerate(zip(paths, sockets, strict=True)):
            driver = "host_device" if path.is_block_device() else "file"
            words += [
                "--blockdev", f"driver={driver},node-name=disk{number},filename={path},aio=io_uring,cache.direct=on",
                "--export",
                f"type=vhost-user-blk,id=export{number},node-name=disk{number},writable=on,num-queues={queues},"
                f"addr.type=unix,addr.path={socket}",
            ]  # fmt: skip
        super().__init__([*command, *words], sockets[-1], log, False)

    def __exit__(self, *error) -> None:
        super().__exit__(*error)
        for socket in self.sockets:
            socket.unlink(missing_ok=True)

    def finish(self) -> None:
        """It goes on without a front-end until it is told to end."""
        if self.alive():
            self.process.terminate()
        super().finish()
