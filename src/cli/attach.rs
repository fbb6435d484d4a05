//! Which lines attach a share to a virtual machine monitor?
//!
//! Each monitor has one function below that writes its lines. Values are checked once, in
//! [`AttachCommand::check`], and quoted in the language they are written into.

use std::path::PathBuf;

use clap::ValueEnum;

use super::values;

/// Largest ring that QEMU makes (`VIRTQUEUE_MAX_SIZE`).
const QEMU_RING_MAX: u16 = 1024;

/// By what the guest finds the window in these examples.
const WINDOW_SERIAL: &str = "extentfsd-window";

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
    window: Option<String>,
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
            binary,
        } = self;
        let window = window_socket.iter().map(|path| ("--window-socket", path));
        for (option, value) in
            [("--socket-path", &socket_path), ("--tag", &tag), ("--shared-dir", &shared_dir)]
                .into_iter()
                .chain(window.clone())
        {
            if value.is_empty() || value.contains(char::is_control) {
                return Err(format!("{option} must not be empty or contain control characters"));
            }
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
                    [("--socket-path", &socket_path), ("--tag", &tag)].into_iter().chain(window)
                {
                    if value.contains([',', '"', '\'', '[', ']']) {
                        return Err(format!(
                            "{option} '{value}' has a character that the monitor does not take"
                        ));
                    }
                }
            }
            Vmm::Uml => {
                for (option, value) in [("--socket-path", &socket_path)].into_iter().chain(window) {
                    if value.contains([':', '"', ' ']) {
                        return Err(format!(
                            "{option} '{value}' has a character that the kernel's command line does not take"
                        ));
                    }
                }
            }
            Vmm::Kata if window_socket.is_some() => {
                return Err("--window-socket cannot be had there: Kata attaches no second device".to_owned());
            }
            Vmm::Libvirt | Vmm::Kata if queues > 1 => {
                return Err(format!(
                    "--queues {queues} cannot be had there: libvirt and Kata set up one queue"
                ));
            }
            Vmm::Qemu | Vmm::Libvirt | Vmm::Kata => {}
        }
        let binary = binary.unwrap_or_else(this_program);
        let window = window_socket;
        Ok(AttachArgs { vmm, socket_path, tag, shared_dir, queues, queue_size, memory, cpus, window, binary })
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
             -device {device}{window}\n\
             \n{mount}",
            window = self.window.as_ref().map_or_else(String::new, |path| {
                let socket = shell(&format!("socket,id=window0,path={}", qemu_value(path)));
                let queues = self.queues;
                format!(
                    " \\\n-chardev {socket} \\\n-device vhost-user-blk-pci,chardev=window0,num-queues={queues}"
                )
            }),
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
             --fs {share}{window}\n\
             \n{mount}",
            window = self.window.as_ref().map_or_else(String::new, |path| {
                let disk = format!(
                    "vhost_user=true,socket={path},num_queues={},queue_size={}",
                    self.queues, self.queue_size
                );
                format!(" \\\n--disk {}", shell(&disk))
            }),
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
             --vhost-user {share}{window}\n\
             \n{mount}",
            window = self.window.as_ref().map_or_else(String::new, |path| {
                let disk = format!("type=block,socket={path},max-queue-size={}", self.queue_size);
                format!(" \\\n--vhost-user {}", shell(&disk))
            }),
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
             extentfsd --shared-dir {shell_dir} --socket-path {shell_socket}{window_option} --socket-group libvirt-qemu\n\
             # and into <devices>:\n\
             <filesystem type='mount'>\n\
             \x20 <driver type='virtiofs' queue='{size}'/>\n\
             \x20 <source socket='{socket}'/>\n\
             \x20 <target dir='{tag}'/>\n\
             </filesystem>\n{window}\
             \n{mount}",
            window_option = self.window_option(),
            window = self.window.as_ref().map_or_else(String::new, |path| {
                format!(
                    "<disk type='vhostuser' device='disk'>\n\
                     \x20 <driver name='qemu' type='raw' queues='{}'/>\n\
                     \x20 <source type='unix' path='{}'/>\n\
                     \x20 <target dev='vdz' bus='virtio'/>\n\
                     </disk>\n",
                    self.queues,
                    xml(path)
                )
            }),
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
        let device = |path: &str, id: u8| format!("virtio_uml.device={}", shell(&format!("{path}:{id}")));
        format!(
            "{start}\n\
             # Add to the kernel's command line. The number is that of the device: 26 is virtio-fs, 2 virtio-blk.\n\
             mem={memory} {share}{window}\n\
             \n{mount}",
            start = self.start_daemon(&offer),
            memory = self.memory_with_suffix(),
            share = device(&self.socket_path, 26),
            window = self.window.as_ref().map_or_else(String::new, |path| format!(" {}", device(path, 2))),
            mount = self.mount_in_guest(),
        )
    }

    fn start_daemon(&self, more: &str) -> String {
        format!(
            "# On the host, before the guest starts:\n\
             extentfsd --shared-dir {} --socket-path {}{}{more}\n",
            shell(&self.shared_dir),
            shell(&self.socket_path),
            self.window_option(),
        )
    }

    /// The daemon's options for the window, where there is one.
    fn window_option(&self) -> String {
        let option = |path| format!(" --window-socket {} --window-serial {WINDOW_SERIAL}", shell(path));
        self.window.as_deref().map_or_else(String::new, option)
    }

    fn mount_in_guest(&self) -> String {
        let option = match &self.window {
            Some(_) => format!("-o iomap_dev=/dev/disk/by-id/virtio-{WINDOW_SERIAL} "),
            None => String::new(),
        };
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

/// A word of a POSIX shell's command line.
fn shell(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,=:@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A value in one of QEMU's comma-separated lists.
fn qemu_value(value: &str) -> String {
    value.replace(',', ",,")
}

/// A value between single quotes in XML.
fn xml(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\'' => escaped.push_str("&apos;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// A basic string in TOML, quotes included.
fn toml(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', r"\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_shell() {
        for word in
            ["", "plain", "/srv/a,b=c", "a b", "it's", "$HOME", "`id`", "a\\b", "~", "*", "ä", "#", "!x"]
        {
            let line = format!("printf %s {}", shell(word));
            let output = std::process::Command::new("sh").arg("-c").arg(&line).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word, "{line}");
        }
        assert_eq!(shell("/srv/share"), "/srv/share");
    }

    #[test]
    fn values_survive_their_languages() {
        assert_eq!(qemu_value("a,b,,c"), "a,,b,,,,c");
        assert_eq!(xml("<&'\">"), "&lt;&amp;&apos;&quot;&gt;");
        assert_eq!(toml(r#"a\b"c"#), r#""a\\b\"c""#);
    }
}
