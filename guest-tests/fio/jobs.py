"""The jobs: what each does in the guest, and how it is named in tables and in the plot.

A job has three parts, words of a shell: `before` and `after` are not measured, `run` is. They see

    DATA      the file of DATA_BYTES, or the whole virtio-blk device
    DIR       a directory for files, also the current one
    OUT       where the result goes as JSON: fio's, or {"ops": N, "seconds": S}
    TREE      the archive of the source tree, TREE_FILES the number of files in it

and the functions of `guest` (timed, settle). A part that fails makes the whole benchmark fail.
"""

import shlex
from dataclasses import dataclass

from lib.suites import UsageError

DATA_BYTES = 256 << 20
# What every job of fio has: one line for all processes, and the file that is there already.
FIO = (
    "--size=256m", "--group_reporting", "--time_based", "--norandommap", "--allow_file_create=0",
    "--percentile_list=50:95:99:99.9",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One job. `family` and `at` are its panel in the plot and its place in it."""

    name: str
    group: str
    family: str
    at: str
    # "IOPS" or "files/s" count operations, "MB/s" counts bytes.
    unit: str
    what: str
    fio: tuple[str, ...] = ()
    run: str = ""
    before: str = ""
    after: str = ""
    # Seconds it may take beside the time that fio is given.
    allowance: int = 30
    # Whether the host can do the same on a file of its own, as a reference.
    on_host: bool = False
    needs_tree: bool = False

    def script(self, runtime: float) -> str:
        """The three parts as functions of a shell."""
        run = (
            self.run
            or f'{shlex.join(["fio", *self.fio_words(runtime)])} --filename="$DATA" --output="$OUT" --output-format=json'
        )
        parts = {"before": self.before or "settle", "run": run, "after": self.after or ":"}
        return "".join(f"{name}() {{\n{body}\n}}\n" for name, body in parts.items())

    def description(self) -> dict[str, str]:
        """What reports need to know of it."""
        return {"group": self.group, "family": self.family, "at": self.at, "unit": self.unit, "what": self.what}

    def fio_words(self, runtime: float) -> list[str]:
        """fio's options without those for the file and the output."""
        return [f"--name={self.name}", *FIO, *self.fio, f"--runtime={round(runtime * 1000)}ms"]


def parallel(group: str, engines: dict[str, tuple[str, tuple[str, ...]]]) -> list[Job]:
    """4 KiB, O_DIRECT, one file for 1, 2 and 4 processes, by each engine: its title and fio's options for it."""
    return [
        Job(
            f"{rw}-{engine}-{processes}", group, f"{rw} 4K, {title}", str(processes), "IOPS",
            f"{rw}, 4 KiB, O_DIRECT, {title}, numjobs {processes}, one file",
            (f"--rw={rw}", "--bs=4k", "--direct=1", *words, f"--numjobs={processes}"), on_host=True,
        )
        for rw in ("randwrite", "randread")
        for engine, (title, words) in engines.items()
        for processes in (1, 2, 4)
    ]  # fmt: skip


def table() -> list[Job]:
    """The table of the issue."""
    return parallel("table", {
        "psync": ("psync", ("--ioengine=psync",)),
        "io_uring": ("io_uring, depth 32", ("--ioengine=io_uring", "--iodepth=32")),
    })  # fmt: skip


def batched() -> list[Job]:
    """Depth 32 with fewer system calls: where those are dear, as in User-Mode Linux, one for each request hides the storage."""
    words = ("--ioengine=io_uring", "--iodepth=32", "--iodepth_batch_submit=8", "--iodepth_batch_complete_max=32")
    return parallel("batched", {"batched": ("io_uring, depth 32, 8 submitted at a time", words)})


def extents() -> list[Job]:
    """What extents are for: random and sequential O_DIRECT on one file, by several processes and at several depths."""
    ways = [
        *((f"psync-{processes}", "psync", str(processes), f"psync, numjobs {processes}",
           ("--ioengine=psync", f"--numjobs={processes}")) for processes in (1, 2, 4, 8)),
        *((f"uring-{depth}", "io_uring", str(depth), f"io_uring, depth {depth}",
           ("--ioengine=io_uring", f"--iodepth={depth}")) for depth in (1, 16, 64)),
    ]  # fmt: skip
    random = [
        Job(
            f"{rw}-{size}-{name}", f"extents-{size}", f"{rw} {size}, {family}", at, "IOPS",
            f"{rw}, {size}, O_DIRECT, {title}, one file", (f"--rw={rw}", f"--bs={size}", "--direct=1", *words), on_host=True,
        )
        for size in ("4k", "64k")
        for rw in ("randwrite", "randread", "randrw")
        for name, family, at, title, words in ways
    ]  # fmt: skip
    return random


def sequential() -> list[Job]:
    """1 MiB after 1 MiB with O_DIRECT."""
    return [
        Job(
            f"{short}-{engine}", "sequential", "sequential 1M, O_DIRECT", f"{short} {engine}", "MB/s",
            f"{rw} in order, 1 MiB, O_DIRECT, {engine}{f', depth {depth}' if depth > 1 else ''}",
            (f"--rw={rw}", "--bs=1m", "--direct=1", f"--ioengine={engine}", f"--iodepth={depth}"), on_host=True,
        )
        for short, rw in (("seqwrite", "write"), ("seqread", "read"))
        for engine, depth in (("psync", 1), ("io_uring", 8))
    ]  # fmt: skip


def through_guest_cache() -> list[Job]:
    """Buffered and mapped, from a guest that has nothing cached; what was written is on the host when the time stops."""
    buffered = (
        ("buffered-seqwrite", "write 1M", "MB/s", ("--rw=write", "--bs=1m", "--end_fsync=1")),
        ("buffered-seqread", "read 1M", "MB/s", ("--rw=read", "--bs=1m")),
        ("buffered-randwrite", "randwrite 4K", "IOPS", ("--rw=randwrite", "--bs=4k", "--end_fsync=1")),
        ("buffered-randread-4", "randread 4K, 4 processes", "IOPS", ("--rw=randread", "--bs=4k", "--numjobs=4")),
    )
    mapped = (
        ("mmap-randwrite", "randwrite 4K", ("--rw=randwrite", "--bs=4k", "--end_fsync=1")),
        ("mmap-randread", "randread 4K", ("--rw=randread", "--bs=4k")),
    )
    return [
        *(
            Job(
                name,
                "buffered",
                f"buffered, {unit}",
                at,
                unit,
                f"buffered {at}",
                (*words, "--ioengine=psync"),
                allowance=90,
            )
            for name, at, unit, words in buffered
        ),
        *(
            Job(name, "mmap", "mapped", at, "IOPS", f"mapped {at}", (*words, "--ioengine=mmap"), allowance=90)
            for name, at, words in mapped
        ),
    ]


def mixed() -> list[Job]:
    """Seven reads for three writes."""
    return [
        Job(
            f"mixed-{engine}-{processes}", "mixed", "70 % reads, 4K, O_DIRECT", f"{engine}, {processes} processes", "IOPS",
            f"70 % random reads, 30 % random writes, 4 KiB, O_DIRECT, {engine}, numjobs {processes}",
            ("--rw=randrw", "--rwmixread=70", "--bs=4k", "--direct=1", f"--ioengine={engine}", *words, f"--numjobs={processes}"),
            on_host=True,
        )
        for engine, processes, words in (("psync", 4, ()), ("io_uring", 2, ("--iodepth=32",)))
    ]  # fmt: skip


def small_files(files: int) -> list[Job]:
    """Many files of 4 KiB, by four processes, phase after phase."""
    words = f"guest-smoke smallfiles {{phase}} --processes 4 --files {files} small"
    return [
        Job(
            f"smallfile-{phase}", "smallfile", "files of 4K, 4 processes", phase, "files/s",
            f"4 processes {what} {4 * files} files",
            run=f'{words.format(phase=phase)} >"$OUT"', before=f"settle; {before}" if before else "", allowance=120,
        )
        for phase, what, before in (
            ("create", "create and write", "rm -rf small && mkdir small"),
            ("stat", "stat", ""),
            ("read", "open and read", ""),
            ("unlink", "remove", ""),
        )
    ]  # fmt: skip


def source_tree() -> list[Job]:
    """A part of the kernel's sources is unpacked, read and removed; what was unpacked is compared with the archive."""
    tree = (
        ("untar", "unpack", 'tar -x -C tree -f "$TREE" && sync -f tree', "rm -rf tree && mkdir tree",
         'settle; tar --compare -C tree -f "$TREE"'),
        ("readtree", "read all of", "tar -c tree | cat >/dev/null", "", ""),
        ("rmtree", "remove", "rm -rf tree", "", ""),
    )  # fmt: skip
    return [
        Job(
            name, "tree", "kernel source tree", name, "files/s", f"{what} fs/ and include/linux/ of the kernel",
            run=f"work() {{ set -o pipefail; {command}; }}; timed $TREE_FILES work",
            before=f"settle; {before}" if before else "", after=after, allowance=240, needs_tree=True,
        )
        for name, what, command, before, after in tree
    ]  # fmt: skip


def verified() -> Job:
    """Never left out: what is written is read back, directly and through the guest's cache, and every block compared."""
    check = (
        "fio --name=verify --bs=4k --rw=randwrite --verify=crc32c --verify_fatal=1 --do_verify=1 "
        '--output="$OUT" --output-format=json'
    )
    return Job(
        "verify", "verify", "", "", "IOPS", "write, read back and compare",
        before=f'settle; {check} --filename="$DATA" --size=4m --direct=1 --ioengine=io_uring --iodepth=16',
        run=f'{check} --filename="$DATA" --offset=32m --size=4m --ioengine=psync --end_fsync=1',
        # A file, because fio's mapped verification of a whole block device finds blocks that it has not written.
        after=f'{check} --filename="$DIR/mapped" --size=2m --ioengine=mmap && rm "$DIR/mapped"',
        allowance=120,
    )  # fmt: skip


def everything(files: int) -> list[Job]:
    """All jobs in the order in which a round does them. `files`: of each of the four processes of smallfile."""
    return [*table(), *batched(), *extents(), *sequential(), *through_guest_cache(), *mixed(), *small_files(files), *source_tree()]


def chosen(words: str, files: int) -> list[Job]:
    """The jobs that are named, by name, group or the beginning of a name that ends in "*"."""
    jobs = everything(files)
    wanted: list[Job] = []
    for word in words.split(","):
        found = [job for job in jobs if matches(job, word)]
        if not found:
            groups = dict.fromkeys(job.group for job in jobs)
            raise UsageError(f"no job or group {word!r}; groups are {', '.join(groups)}, --list has the jobs")
        wanted += [job for job in found if job not in wanted]
    phases = [job for job in jobs if job.group in ("smallfile", "tree")]
    for group in ("smallfile", "tree"):
        # Phases build on each other.
        if any(job.group == group for job in wanted):
            wanted = [job for job in wanted if job.group != group] + [job for job in phases if job.group == group]
    return sorted(wanted, key=jobs.index)


def matches(job: Job, word: str) -> bool:
    """Whether a word of the command line names this job."""
    if word.endswith("*"):
        return job.name.startswith(word[:-1])
    return word in (job.name, job.group)
