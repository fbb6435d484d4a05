//! Which lines attach a share to a virtual machine monitor?
//!
//! | file | its question |
//! |---|---|
//! | this one | which lines attach the share? |
//! | `disk` | which lines attach the disk of a guest with extents? |
//! | `quoting` | how is a value written in the language of each line? |
//!
//! Each monitor has one function that writes its lines. Values are checked once, in [`AttachCommand::check`], and quoted
//! in the language they are written into.

mod disk;
mod quoting;

use std::path::PathBuf;

use clap::ValueEnum;

use super::values;
use disk::Disk;
use quoting::{qemu_value, shell, toml, xml};

/// Largest ring that QEMU makes (`VIRTQUEUE_MAX_SIZE`).
const QEMU_RING_MAX: u16 = 1024;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Print the lines that attach a share to a virtual machine monitor
///
/// Prints the daemon's command line, what to add to the monitor's configuration, and the mount command for the
/// guest. Nothing is started or changed.
#[derive(Debug, clap::Parser)]
#[command(bin_name = "extentfsd attach-args", arg_required_else_help = true)]
pub(super) struct AttachCommand {
    /// The virtual machine monitor
    #[arg(long)]
    vmm: Vmm,
    /// The socket between the daemon and the monitor
    #[arg(long, value_name = "PATH", default_value = "/run/extentfsd.sock")]
    socket_path: String,
    /// The name under which the guest mounts the share
    #[arg(long, value_name = "TAG", default_value = "share", value_parser = values::tag)]
    tag: String,
    /// The host directory to share
    #[arg(long, value_name = "DIR", default_value = "/srv/share")]
    shared_dir: String,
    /// Request queues to use
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=64))]
    queues: u16,
    /// Entries of each queue, a power of two
    #[arg(long, value_name = "N", default_value = "1024", value_parser = queue_size)]
    queue_size: u16,
    /// Memory of the guest, in whole MiB
    #[arg(long, value_name = "BYTES", default_value = "4G", value_parser = memory)]
    memory: u64,
    /// Processors of the guest
    #[arg(long, value_name = "N", default_value = "2", value_parser = clap::value_parser!(u16).range(1..))]
    cpus: u16,
    /// The socket of the block device for extents, to have one: for guests whose kernel has the patch
    #[arg(long, value_name = "PATH")]
    window_socket: Option<String>,
    /// The host's block device under the share, to give it to the guest for extents in place of a window (see
    /// --extent-source)
    #[arg(long, value_name = "PATH", conflicts_with = "window_socket")]
    device: Option<String>,
    /// The daemon's path, for monitors that start it [default: this program]
    #[arg(long, value_name = "PATH")]
    binary: Option<String>,
}

/// A virtual machine monitor, or what launches one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Vmm {
    /// QEMU's command line.
    Qemu,
    /// cloud-hypervisor's command line.
    CloudHypervisor,
    /// crosvm's command line.
    Crosvm,
    /// A libvirt domain, with the daemon started by libvirt or by hand.
    Libvirt,
    /// Kata Containers' `configuration.toml`.
    Kata,
    /// The command line of a User-Mode Linux kernel.
    Uml,
}

/// A share and the guest to attach it to. All values are known to fit the monitor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachArgs {
    vmm: Vmm,
    socket_path: String,
    tag: String,
    shared_dir: String,
    queues: u16,
    queue_size: u16,
    memory: u64,
    cpus: u16,
    disk: Option<Disk>,
    binary: String,
}

fn queue_size(text: &str) -> Result<u16, String> {
    // Smaller rings do not hold the headers and one page of data.
    let size = text.parse::<u16>().ok().filter(|size| size.is_power_of_two() && (8..=32768).contains(size));
    size.ok_or_else(|| "must be a power of two from 8 to 32768".to_owned())
}

fn memory(text: &str) -> Result<u64, String> {
    let bytes = values::size(text)?;
    if bytes == 0 || !bytes.is_multiple_of(MIB) {
        return Err("must be whole MiB, for example 512M or 4G".to_owned());
    }
    Ok(bytes)
}

impl AttachCommand {
    /// Refuses, in one line naming the option, what the monitor could not take.
    pub(super) fn check(self) -> Result<AttachArgs, String> {
        let Self {
            vmm,
            socket_path,
            tag,
            shared_dir,
            queues,
            queue_size,
            memory,
            cpus,
            window_socket,
            device,
            binary,
        } = self;
        let disk = window_socket.map(Disk::Window).or(device.map(Disk::Device));
        let named = disk.iter().map(Disk::option);
        for (option, value) in
            [("--socket-path", &socket_path), ("--tag", &tag), ("--shared-dir", &shared_dir)]
                .into_iter()
                .chain(named.clone())
        {
            if value.is_empty() || value.contains(char::is_control) {
                return Err(format!("{option} must not be empty or contain control characters"));
            }
        }
        if let Some(disk) = &disk {
            disk.check(vmm)?;
        }
        match vmm {
            Vmm::Qemu | Vmm::Libvirt | Vmm::Kata if queue_size > QEMU_RING_MAX => {
                return Err(format!(
                    "--queue-size {queue_size} is too much for QEMU, which takes {QEMU_RING_MAX}"
                ));
            }
            Vmm::CloudHypervisor if queues > cpus => {
                return Err(format!("--queues {queues} needs --cpus {queues} or more with cloud-hypervisor"));
            }
            Vmm::CloudHypervisor | Vmm::Crosvm => {
                // Their option lists end a value at these characters.
                for (option, value) in
                    [("--socket-path", &socket_path), ("--tag", &tag)].into_iter().chain(named)
                {
                    if value.contains([',', '"', '\'', '[', ']']) {
                        return Err(format!(
                            "{option} '{value}' has a character that the monitor does not take"
                        ));
                    }
                }
            }
            Vmm::Uml => {
                for (option, value) in [("--socket-path", &socket_path)].into_iter().chain(named) {
                    if value.contains([':', '"', ' ']) {
                        return Err(format!(
                            "{option} '{value}' has a character that the kernel's command line does not take"
                        ));
                    }
                }
            }
            Vmm::Libvirt | Vmm::Kata if queues > 1 => {
                return Err(format!(
                    "--queues {queues} cannot be had there: libvirt and Kata set up one queue"
                ));
            }
            Vmm::Qemu | Vmm::Libvirt | Vmm::Kata => {}
        }
        let binary = binary.unwrap_or_else(this_program);
        Ok(AttachArgs { vmm, socket_path, tag, shared_dir, queues, queue_size, memory, cpus, disk, binary })
    }
}

fn this_program() -> String {
    let path = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/usr/bin/extentfsd"));
    path.to_string_lossy().into_owned()
}

impl AttachArgs {
    /// The lines for the monitor, in the order in which they are needed, with a final newline.
    pub fn render(&self) -> String {
        match self.vmm {
            Vmm::Qemu => self.qemu(),
            Vmm::CloudHypervisor => self.cloud_hypervisor(),
            Vmm::Crosvm => self.crosvm(),
            Vmm::Libvirt => self.libvirt(),
            Vmm::Kata => self.kata(),
            Vmm::Uml => self.uml(),
        }
    }

    fn qemu(&self) -> String {
        let memory = self.memory_with_suffix();
        let socket = shell(&format!("socket,id=fs0,path={}", qemu_value(&self.socket_path)));
        let device = shell(&format!(
            "vhost-user-fs-pci,chardev=fs0,tag={},queue-size={},num-request-queues={}",
            qemu_value(&self.tag),
            self.queue_size,
            self.queues
        ));
        format!(
            "{start}\n\
             # Add to QEMU's command line. The guest's memory must be shared with the daemon.\n\
             -smp {cpus} -m {memory} \\\n\
             -object memory-backend-memfd,id=mem,size={memory},share=on -machine memory-backend=mem \\\n\
             -chardev {socket} \\\n\
             -device {device}{disk}\n\
             \n{mount}",
            disk = self.disk_lines(Disk::qemu),
            start = self.start_daemon(""),
            cpus = self.cpus,
            mount = self.mount_in_guest(),
        )
    }

    fn cloud_hypervisor(&self) -> String {
        let share = shell(&format!(
            "tag={},socket={},num_queues={},queue_size={}",
            self.tag, self.socket_path, self.queues, self.queue_size
        ));
        format!(
            "{start}\n\
             # Add to cloud-hypervisor's command line. The guest's memory must be shared with the daemon.\n\
             --cpus boot={cpus} --memory size={memory},shared=on \\\n\
             --fs {share}{disk}\n\
             \n{mount}",
            disk = self.disk_lines(Disk::cloud_hypervisor),
            start = self.start_daemon(""),
            cpus = self.cpus,
            memory = self.memory_with_suffix(),
            mount = self.mount_in_guest(),
        )
    }

    fn crosvm(&self) -> String {
        // crosvm sets up every queue that the daemon offers and asks the daemon for the tag.
        let offer = format!(" --tag {} --queues {}", shell(&self.tag), self.queues);
        let share = shell(&format!("type=fs,socket={},max-queue-size={}", self.socket_path, self.queue_size));
        format!(
            "{start}\n\
             # Add to the command line of \"crosvm run\".\n\
             --cpus num-cores={cpus} --mem size={memory} \\\n\
             --vhost-user {share}{disk}\n\
             \n{mount}",
            disk = self.disk_lines(Disk::crosvm),
            start = self.start_daemon(&offer),
            cpus = self.cpus,
            memory = self.memory / MIB,
            mount = self.mount_in_guest(),
        )
    }

    fn libvirt(&self) -> String {
        // Command lines cannot stand in comments of the XML, where "--" is not allowed.
        format!(
            "# Into <domain>. The guest's memory must be shared with the daemon.\n\
             <memoryBacking>\n\
             \x20 <source type='memfd'/>\n\
             \x20 <access mode='shared'/>\n\
             </memoryBacking>\n\
             \n\
             # Into <devices>, if libvirt is to start the daemon:\n\
             <filesystem type='mount' accessmode='passthrough'>\n\
             \x20 <driver type='virtiofs' queue='{size}'/>\n\
             \x20 <binary path='{binary}'/>\n\
             \x20 <source dir='{dir}'/>\n\
             \x20 <target dir='{tag}'/>\n\
             </filesystem>\n\
             \n\
             # Or, to start it yourself, on the host, before the guest starts, with the group that QEMU runs as:\n\
             extentfsd --shared-dir {shell_dir} --socket-path {shell_socket}{disk_options} --socket-group libvirt-qemu\n\
             # and into <devices>:\n\
             <filesystem type='mount'>\n\
             \x20 <driver type='virtiofs' queue='{size}'/>\n\
             \x20 <source socket='{socket}'/>\n\
             \x20 <target dir='{tag}'/>\n\
             </filesystem>\n{disk}\
             \n{mount}",
            disk_options = self.disk_options(),
            disk = self.disk_lines(Disk::libvirt),
            size = self.queue_size,
            binary = xml(&self.binary),
            dir = xml(&self.shared_dir),
            tag = xml(&self.tag),
            socket = xml(&self.socket_path),
            shell_dir = shell(&self.shared_dir),
            shell_socket = shell(&self.socket_path),
            mount = self.mount_in_guest(),
        )
    }

    fn kata(&self) -> String {
        let binary = toml(&self.binary);
        format!(
            "# In Kata's configuration.toml. Kata starts the daemon, chooses directory, socket and tag, and mounts the\n\
             # share in the guest:\n\
             # {binary} --syslog --cache=auto --shared-dir=DIR --fd=3 --thread-pool-size=1 --announce-submounts\n\
             [hypervisor.qemu]\n\
             shared_fs = \"virtio-fs\"\n\
             virtio_fs_daemon = {binary}\n\
             valid_virtio_fs_daemon_paths = [{binary}]\n\
             virtio_fs_cache = \"auto\"\n\
             virtio_fs_queue_size = {size}\n\
             virtio_fs_extra_args = [\"--thread-pool-size=1\", \"--announce-submounts\"]\n",
            size = self.queue_size,
        )
    }

    fn uml(&self) -> String {
        // The kernel asks the daemon for the tag, and takes as many queues as it offers.
        let offer = format!(" --tag {} --queues {}", shell(&self.tag), self.queues);
        format!(
            "{start}\n\
             # Add to the kernel's command line. The number is that of the device: 26 is virtio-fs, 2 virtio-blk.\n\
             mem={memory} virtio_uml.device={share}{disk}\n\
             \n{mount}",
            start = self.start_daemon(&offer),
            memory = self.memory_with_suffix(),
            share = shell(&format!("{}:26", self.socket_path)),
            disk = self.disk_lines(|disk, _| disk.uml()),
            mount = self.mount_in_guest(),
        )
    }

    fn start_daemon(&self, more: &str) -> String {
        format!(
            "# On the host, before the guest starts:\n\
             extentfsd --shared-dir {} --socket-path {}{}{more}\n",
            shell(&self.shared_dir),
            shell(&self.socket_path),
            self.disk_options(),
        )
    }

    /// The daemon's options for the disk, where there is one.
    fn disk_options(&self) -> String {
        self.disk.as_ref().map_or_else(String::new, Disk::daemon_options)
    }

    /// What attaches the disk, where there is one.
    fn disk_lines(&self, lines: fn(&Disk, &Self) -> String) -> String {
        self.disk.as_ref().map_or_else(String::new, |disk| lines(disk, self))
    }

    fn mount_in_guest(&self) -> String {
        let option = self.disk.as_ref().map_or_else(String::new, Disk::mount_option);
        format!("# In the guest:\nmount -t virtiofs {option}{} /mnt\n", shell(&self.tag))
    }

    fn memory_with_suffix(&self) -> String {
        if self.memory.is_multiple_of(GIB) {
            format!("{}G", self.memory / GIB)
        } else {
            format!("{}M", self.memory / MIB)
        }
    }
}
