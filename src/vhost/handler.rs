//! The vhost-user messages of one connection, carried out.

use std::fs::File;
use std::io;
use std::sync::Arc;

use tracing::{debug, warn};
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVirtioFeatures, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::vring::{Addresses, Around, Vring, invalid};
use super::{Device, RingRuntime};
use crate::ring::{DirtyLog, GuestMemory, MemoryError, RegionConfig};

/// Memory regions that may be added one by one; what KVM itself offers to user space.
const MAX_MEMORY_SLOTS: u64 = 509;

/// The state of one connection: what was negotiated, the guest's memory and its virtqueues.
pub(super) struct Handler {
    device: Arc<dyn Device>,
    runtime: RingRuntime,
    owned: bool,
    acked_features: u64,
    memory: Arc<GuestMemory>,
    dirty_log: Option<Arc<DirtyLog>>,
    vrings: Vec<Vring>,
}

impl Handler {
    pub(super) fn new(device: Arc<dyn Device>, runtime: RingRuntime) -> Self {
        let vrings = fresh_vrings(&*device);
        Self {
            device,
            runtime,
            owned: false,
            acked_features: 0,
            memory: Arc::new(GuestMemory::default()),
            dirty_log: None,
            vrings,
        }
    }

    /// Stops all rings, then resets the device: in this order, so that no request is served by a device
    /// that has forgotten its files.
    pub(super) fn shut_down(&mut self) {
        for vring in &mut self.vrings {
            vring.stop();
        }
        self.vrings.clear();
        self.device.reset();
    }

    fn offered_features(&self) -> u64 {
        self.device.features()
            | 1 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
            | VhostUserVirtioFeatures::LOG_ALL.bits()
    }

    /// All virtqueues together with what it takes to run one.
    fn split(&mut self) -> (&mut [Vring], Around<'_>) {
        let acked = |bits: u64| self.acked_features & bits != 0;
        let around = Around {
            memory: &self.memory,
            dirty_log: self.dirty_log.as_ref().filter(|_| acked(VhostUserVirtioFeatures::LOG_ALL.bits())),
            event_idx: acked(1 << VIRTIO_RING_F_EVENT_IDX),
            indirect: acked(1 << VIRTIO_RING_F_INDIRECT_DESC),
            runtime: &self.runtime,
        };
        (&mut self.vrings, around)
    }

    /// The named virtqueue.
    fn vring(&mut self, index: u32) -> io::Result<(&mut Vring, Around<'_>)> {
        let (vrings, around) = self.split();
        let count = vrings.len();
        match usize::try_from(index).ok().and_then(|index| vrings.get_mut(index)) {
            Some(vring) => Ok((vring, around)),
            None => Err(invalid(format!("queue {index} does not exist: the device has {count}"))),
        }
    }

    /// Does something to every virtqueue, to the last; the first error is told.
    fn for_all(&mut self, mut change: impl FnMut(&mut Vring, Around<'_>) -> io::Result<()>) -> Result<()> {
        let (vrings, around) = self.split();
        let mut outcome = Ok(());
        for vring in vrings {
            outcome = outcome.and(change(vring, around));
        }
        outcome.map_err(refused)
    }

    fn replace_memory(&mut self, memory: std::result::Result<GuestMemory, MemoryError>) -> Result<()> {
        self.memory = Arc::new(memory.map_err(io::Error::other).map_err(refused)?);
        self.for_all(|vring, around| vring.set_memory(around.memory))
    }
}

fn fresh_vrings(device: &dyn Device) -> Vec<Vring> {
    (0..device.queue_count()).map(|index| Vring::new(device, index)).collect()
}

/// The front-end is told that the message was not carried out; the connection goes on.
fn refused(cause: impl Into<io::Error>) -> Error {
    Error::ReqHandlerError(cause.into())
}

fn region_config(region: &VhostUserMemoryRegion, file: File) -> RegionConfig {
    RegionConfig {
        file: file.into(),
        offset: region.mmap_offset,
        size: region.memory_size,
        guest_address: region.guest_phys_addr,
        user_address: region.user_addr,
    }
}

impl VhostUserBackendReqHandlerMut for Handler {
    fn set_owner(&mut self) -> Result<()> {
        if self.owned {
            return Err(Error::InvalidOperation("this connection already has an owner"));
        }
        self.owned = true;
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.owned = false;
        self.reset_device()
    }

    /// Everything that was set up is forgotten; memory stays, as its owner is the connection.
    fn reset_device(&mut self) -> Result<()> {
        self.shut_down();
        self.vrings = fresh_vrings(&*self.device);
        self.acked_features = 0;
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.offered_features())
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        let unknown = features & !self.offered_features();
        if unknown != 0 {
            return Err(refused(invalid(format!("features {unknown:#x} were not offered"))));
        }
        debug!("{}: the front-end chose features {features:#x}", self.device.name());
        self.acked_features = features;
        // Without protocol features there is no SET_VRING_ENABLE: rings are enabled from the start.
        if features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() == 0 {
            self.for_all(|vring, around| vring.set_enabled(true, around))?;
        }
        self.for_all(|vring, around| vring.set_dirty_log(around.dirty_log))
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<Vec<u64>>> {
        let configs = regions.iter().zip(files).map(|(region, file)| region_config(region, file));
        self.replace_memory(GuestMemory::new(configs))?;
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        let (vring, _) = self.vring(index).map_err(refused)?;
        vring.set_size(num).map_err(refused)
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        log: u64,
    ) -> Result<()> {
        let addresses = Addresses { descriptors: descriptor, available, used };
        let log_address = flags.contains(VhostUserVringAddrFlags::VHOST_VRING_F_LOG).then_some(log);
        let (vring, _) = self.vring(index).map_err(refused)?;
        vring.set_addresses(addresses, log_address).map_err(refused)
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let (vring, _) = self.vring(index).map_err(refused)?;
        vring.set_base(base).map_err(refused)
    }

    /// An index that does not exist ends the connection: this message must be answered, and there is
    /// no answer that says so.
    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        let (vring, _) = self.vring(index).map_err(|_| Error::InvalidParam)?;
        Ok(VhostUserVringState::new(index, vring.stop().into()))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let (vring, around) = self.vring(index.into()).map_err(refused)?;
        vring.set_kick(fd, around).map_err(refused)
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let (vring, _) = self.vring(index.into()).map_err(refused)?;
        vring.set_call(fd).map_err(refused)
    }

    fn set_vring_err(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let (vring, _) = self.vring(index.into()).map_err(refused)?;
        vring.set_err(fd).map_err(refused)
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        let mut features = VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
            | VhostUserProtocolFeatures::RESET_DEVICE
            | VhostUserProtocolFeatures::LOG_SHMFD;
        if self.device.config_space().is_some() {
            features |= VhostUserProtocolFeatures::CONFIG;
        }
        Ok(features)
    }

    /// QEMU acknowledges bits that it knows, offered or not; those that were not offered mean nothing.
    fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        debug!("{}: the front-end chose protocol features {features:#x}", self.device.name());
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.device.queue_count().into())
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        let (vring, around) = self.vring(index).map_err(refused)?;
        vring.set_enabled(enable, around).map_err(refused)
    }

    /// Bytes behind the end of the configuration space read as zero, as front-ends ask for the size of
    /// the newest layout that they know.
    fn get_config(&mut self, offset: u32, size: u32, _flags: VhostUserConfigFlags) -> Result<Vec<u8>> {
        let space =
            self.device.config_space().ok_or(Error::InvalidOperation("there is no configuration space"))?;
        let offset = usize::try_from(offset).map_err(|_| Error::InvalidParam)?;
        let size = usize::try_from(size).map_err(|_| Error::InvalidParam)?;
        Ok(space.into_iter().skip(offset).chain(std::iter::repeat(0)).take(size).collect())
    }

    fn set_config(&mut self, _offset: u32, _buf: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        Err(Error::InvalidOperation("the configuration space is read-only"))
    }

    fn set_gpu_socket(&mut self, _gpu_backend: GpuBackend) -> Result<()> {
        Err(Error::InvalidOperation("not a GPU"))
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        Err(Error::InvalidParam)
    }

    fn get_inflight_fd(&mut self, _inflight: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        Err(Error::InvalidParam)
    }

    fn set_inflight_fd(&mut self, _inflight: &VhostUserInflight, _file: File) -> Result<()> {
        Err(Error::InvalidOperation("in-flight tracking was not offered"))
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(MAX_MEMORY_SLOTS)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        fd: File,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<u64>> {
        self.replace_memory(self.memory.with_region(region_config(region, fd)))?;
        Ok(None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        self.replace_memory(self.memory.without_region(
            region.guest_phys_addr,
            region.user_addr,
            region.memory_size,
        ))
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _fd: File,
    ) -> Result<Option<File>> {
        warn!("the front-end asks for the device state: migration is not in this version");
        Err(Error::InvalidOperation("migration is not in this version"))
    }

    fn check_device_state(&mut self) -> Result<()> {
        Err(Error::InvalidOperation("migration is not in this version"))
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        Err(Error::InvalidParam)
    }

    fn set_log_base(&mut self, log: &VhostUserLog, file: File) -> Result<()> {
        let log = DirtyLog::new(&file.into(), log.mmap_offset, log.mmap_size).map_err(refused)?;
        self.dirty_log = Some(Arc::new(log));
        self.for_all(|vring, around| vring.set_dirty_log(around.dirty_log))
    }
}
