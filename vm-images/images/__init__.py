"""Builds and finds what the test guests are made of.

One module for one kind of thing: `debian` (packages of any Debian series, unpacked outside the
system), `uml` and `kernels` (guest kernels), `qemu`, `programs` (what cargo installs) and `root`
(the initramfs). Everything is kept in the cache folder of `cache`, never in the source tree.
"""
