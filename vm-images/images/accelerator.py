"""Whether KVM can run a stock guest here: found out by trying, remembered per host kernel.

/dev/kvm may open and still not be able to run a guest (a virtualised host without nested virtualisation, a patched
KVM), so only a boot that reaches the init counts.
"""

import functools
import os
import platform
import subprocess

from . import cache, kernels, qemu, root

TRIAL_SECONDS = 20


@functools.cache
def kvm_works() -> bool:
    """The remembered verdict, or that of a trial boot. EXTENTFSD_KVM=0 or 1 decides without trying."""
    forced = os.environ.get("EXTENTFSD_KVM")
    if forced:
        return forced == "1"
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    key = cache.digest(platform.release(), qemu.version(), kernels.stock("latest").release)
    verdict = cache.root() / f"kvm-{key}"
    if not verdict.exists():
        cache.say(f"trying whether KVM can boot a guest (at most {TRIAL_SECONDS} s)")
        works = trial()
        cache.say("KVM works" if works else "KVM does not: guests are emulated")
        verdict.write_text("1" if works else "0")
    return verdict.read_text() == "1"


def trial() -> bool:
    """Boots a guest with no share; its init says that it is there and powers off."""
    words, environment = qemu.command()
    words += [
        "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-machine", "q35,accel=kvm", "-cpu", "host",
        "-m", "512M", "-kernel", str(kernels.stock("latest").image), "-initrd", str(root.image()),
        "-append", "console=ttyS0 loglevel=4 panic=-1", "-serial", "stdio",
    ]  # fmt: skip
    try:
        done = subprocess.run(
            words, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, capture_output=True, timeout=TRIAL_SECONDS
        )
    except subprocess.TimeoutExpired:
        return False
    return b"@@rig ready" in done.stdout


def name() -> str:
    """ "KVM" or "TCG", as messages say it."""
    return "KVM" if kvm_works() else "TCG"


def machine_option() -> str:
    """The accelerator as a property of QEMU's -machine."""
    return "accel=kvm" if kvm_works() else "accel=tcg"


def cpu_options() -> list[str]:
    """The processor model."""
    return ["-cpu", "host" if kvm_works() else "max"]
