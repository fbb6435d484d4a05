//! Which lines attach the disk on which a guest with extents finds the bytes of files?

use super::quoting::{qemu_value, shell, xml};
use super::{AttachArgs, Vmm};

/// The disk beside the share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Disk {
    /// The window of the daemon at this socket (`--window-socket`).
    Window(String),
    /// The host's block device under the share (`--device`), which the monitor opens itself.
    Device(String),
}

impl Disk {
    /// The option that names it, and its value.
    pub(super) fn option(&self) -> (&'static str, &String) {
        match self {
            Self::Window(socket) => ("--window-socket", socket),
            Self::Device(path) => ("--device", path),
        }
    }

    /// Refuses, in one line naming the option, what the monitor cannot attach.
    pub(super) fn check(&self, vmm: Vmm) -> Result<(), String> {
        let (option, _) = self.option();
        match (vmm, self) {
            (Vmm::Kata, _) => Err(format!("{option} cannot be had there: Kata attaches no second device")),
            (Vmm::Uml, Self::Device(_)) => Err(format!(
                "{option} cannot be had there: disks of User-Mode Linux have no serial number by which to know them"
            )),
            _ => Ok(()),
        }
    }

    /// By what the guest finds it in these examples.
    fn serial(&self) -> &'static str {
        match self {
            Self::Window(_) => "extentfsd-window",
            Self::Device(_) => "extentfsd-device",
        }
    }

    /// What the daemon is told of it; begins with a blank.
    pub(super) fn daemon_options(&self) -> String {
        let serial = self.serial();
        match self {
            Self::Window(socket) => format!(" --window-socket {} --window-serial {serial}", shell(socket)),
            Self::Device(path) => {
                format!(" --extent-source device --device {} --window-serial {serial}", shell(path))
            }
        }
    }

    /// The option of the guest's mount command, and a blank.
    pub(super) fn mount_option(&self) -> String {
        format!("-o iomap_dev=/dev/disk/by-id/virtio-{} ", self.serial())
    }

    /// Lines behind those of the share.
    pub(super) fn qemu(&self, share: &AttachArgs) -> String {
        let queues = share.queues;
        match self {
            Self::Window(socket) => format!(
                " \\\n-chardev {} \\\n-device vhost-user-blk-pci,chardev=window0,num-queues={queues}",
                shell(&format!("socket,id=window0,path={}", qemu_value(socket)))
            ),
            Self::Device(path) => format!(
                " \\\n-blockdev {} \\\n-device virtio-blk-pci,drive=device0,serial={},num-queues={queues}",
                shell(&format!(
                    "driver=host_device,node-name=device0,filename={},cache.direct=on,aio=io_uring",
                    qemu_value(path)
                )),
                self.serial()
            ),
        }
    }

    /// A line behind that of the share.
    pub(super) fn cloud_hypervisor(&self, share: &AttachArgs) -> String {
        let queues = format!("num_queues={},queue_size={}", share.queues, share.queue_size);
        let disk = match self {
            Self::Window(socket) => format!("vhost_user=true,socket={socket},{queues}"),
            Self::Device(path) => format!("path={path},direct=on,serial={},{queues}", self.serial()),
        };
        format!(" \\\n--disk {}", shell(&disk))
    }

    /// A line behind that of the share.
    pub(super) fn crosvm(&self, share: &AttachArgs) -> String {
        let disk = match self {
            Self::Window(socket) => format!(
                "--vhost-user {}",
                shell(&format!("type=block,socket={socket},max-queue-size={}", share.queue_size))
            ),
            Self::Device(path) => {
                format!("--block {}", shell(&format!("path={path},direct=true,id={}", self.serial())))
            }
        };
        format!(" \\\n{disk}")
    }

    /// An element behind that of the share.
    pub(super) fn libvirt(&self, share: &AttachArgs) -> String {
        let queues = share.queues;
        match self {
            Self::Window(socket) => format!(
                "<disk type='vhostuser' device='disk'>\n\
                 \x20 <driver name='qemu' type='raw' queues='{queues}'/>\n\
                 \x20 <source type='unix' path='{}'/>\n\
                 \x20 <target dev='vdz' bus='virtio'/>\n\
                 </disk>\n",
                xml(socket)
            ),
            Self::Device(path) => format!(
                "<disk type='block' device='disk'>\n\
                 \x20 <driver name='qemu' type='raw' cache='none' io='io_uring' queues='{queues}'/>\n\
                 \x20 <source dev='{}'/>\n\
                 \x20 <target dev='vdz' bus='virtio'/>\n\
                 \x20 <serial>{}</serial>\n\
                 </disk>\n",
                xml(path),
                self.serial()
            ),
        }
    }

    /// A word behind that of the share.
    pub(super) fn uml(&self) -> String {
        match self {
            Self::Window(socket) => format!(" virtio_uml.device={}", shell(&format!("{socket}:2"))),
            // Refused by `check`.
            Self::Device(_) => String::new(),
        }
    }
}
