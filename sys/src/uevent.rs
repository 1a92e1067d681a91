//! The kernel's device events: a netlink socket, and one message taken apart.
//!
//! Invariant: only what the kernel itself sent is passed on (netlink port 0, multicast group 1). udev's messages use
//! group 2 and a "libudev" header, and any process with privileges could send to group 1.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_recv_buffer_size_force};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recvfrom, socket_with};

/// The kernel's own limit is 2 KiB of environment (UEVENT_BUFFER_SIZE) plus the header with the device path.
const MESSAGE_MAX: usize = 8192;
/// Room for a coldplug of thousands of devices between two reads.
const RECEIVE_BUFFER: usize = 16 << 20;

/// One event of the kernel. Lookups scan the message, which is a few hundred bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uevent {
    message: Vec<u8>,
}

impl Uevent {
    /// Takes a message as the socket delivers it: `action@devpath NUL KEY=VALUE NUL …`. `None` if it is not of that form.
    #[must_use]
    pub fn parse(message: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(message).ok()?;
        let (header, _) = text.split_once('\0')?;
        let (action, devpath) = header.split_once('@')?;
        let event = Self {
            message: message.to_vec(),
        };
        let sound = !action.is_empty() && event.action() == action && event.devpath() == devpath;
        sound.then_some(event)
    }

    /// The value of `key`, if the message carries it.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.pairs().find_map(|(k, v)| (k == key).then_some(v))
    }

    /// All keys and values in the order of the message.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        // parse() proved the message UTF-8.
        let text = std::str::from_utf8(&self.message).unwrap_or_default();
        text.split('\0')
            .skip(1)
            .filter_map(|pair| pair.split_once('='))
    }

    /// `add`, `remove`, `change`, `bind`, `unbind`, `move`, `online` or `offline`.
    #[must_use]
    pub fn action(&self) -> &str {
        self.get("ACTION").unwrap_or_default()
    }

    /// The device below /sys, with a leading slash.
    #[must_use]
    pub fn devpath(&self) -> &str {
        self.get("DEVPATH").unwrap_or_default()
    }

    /// Its subsystem, for instance `block`.
    #[must_use]
    pub fn subsystem(&self) -> &str {
        self.get("SUBSYSTEM").unwrap_or_default()
    }

    /// What a driver is found by.
    #[must_use]
    pub fn modalias(&self) -> Option<&str> {
        self.get("MODALIAS")
    }

    /// Its node below /dev, if it has one.
    #[must_use]
    pub fn devname(&self) -> Option<&str> {
        self.get("DEVNAME")
    }

    /// For `block`: `disk` or `partition`.
    #[must_use]
    pub fn devtype(&self) -> Option<&str> {
        self.get("DEVTYPE")
    }

    /// Major and minor number of its node.
    #[must_use]
    pub fn devnum(&self) -> Option<(u32, u32)> {
        Some((
            self.get("MAJOR")?.parse().ok()?,
            self.get("MINOR")?.parse().ok()?,
        ))
    }

    /// The partition's number.
    #[must_use]
    pub fn partition_number(&self) -> Option<u32> {
        self.get("PARTN")?.parse().ok()
    }
}

/// What [`Socket::receive`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// An event.
    Event(Uevent),
    /// Events were lost since the last call: look at everything again.
    Overflow,
    /// Nothing is waiting.
    Nothing,
}

/// A socket that gets every event from its opening on. It never blocks.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
}

impl Socket {
    /// Opens it. To miss nothing, open it first and look at /sys then.
    pub fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            flags,
            Some(KOBJECT_UEVENT),
        )?;
        if set_socket_recv_buffer_size_force(&fd, RECEIVE_BUFFER).is_err() {
            set_socket_recv_buffer_size(&fd, RECEIVE_BUFFER)?;
        }
        bind(&fd, &SocketAddrNetlink::new(0, 1))?;
        Ok(Self { fd })
    }

    /// Takes the next event, if one is waiting.
    pub fn receive(&self) -> io::Result<Received> {
        let mut buffer = [0_u8; MESSAGE_MAX];
        loop {
            let (length, sender) = match recvfrom(&self.fd, &mut buffer[..], RecvFlags::empty()) {
                Ok((_, length, sender)) => (length, sender),
                Err(Errno::AGAIN) => return Ok(Received::Nothing),
                Err(Errno::NOBUFS) => return Ok(Received::Overflow),
                Err(Errno::INTR) => continue,
                Err(other) => return Err(other.into()),
            };
            let port = sender
                .and_then(|s| SocketAddrNetlink::try_from(s).ok())
                .map(|s| s.pid());
            if port != Some(0) {
                continue;
            }
            if let Some(event) = buffer.get(..length).and_then(Uevent::parse) {
                return Ok(Received::Event(event));
            }
        }
    }

    /// Sleeps until an event is waiting (`true`) or `deadline` has passed (`false`).
    pub fn wait(&self, deadline: Instant) -> io::Result<bool> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left)
                .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
            let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
            match poll(&mut fds, Some(&timeout)) {
                Ok(ready) => return Ok(ready > 0),
                Err(Errno::INTR) => {}
                Err(other) => return Err(other.into()),
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may")]
    use super::*;

    /// As Linux 6.12 sends it for a virtio disk's third partition.
    const PARTITION: &[u8] = b"add@/devices/pci0000:00/0000:00:04.0/virtio1/block/vda/vda3\0ACTION=add\0\
        DEVPATH=/devices/pci0000:00/0000:00:04.0/virtio1/block/vda/vda3\0SUBSYSTEM=block\0MAJOR=254\0MINOR=3\0\
        DEVNAME=vda3\0DEVTYPE=partition\0DISKSEQ=9\0PARTN=3\0SEQNUM=1021\0";
    const VIRTIO: &[u8] = b"add@/devices/pci0000:00/0000:00:04.0/virtio1\0ACTION=add\0\
        DEVPATH=/devices/pci0000:00/0000:00:04.0/virtio1\0SUBSYSTEM=virtio\0MODALIAS=virtio:d00000002v00001AF4\0SEQNUM=871\0";

    #[test]
    fn takes_a_partition_event_apart() {
        let event = Uevent::parse(PARTITION).unwrap();
        assert_eq!(event.action(), "add");
        assert!(event.devpath().ends_with("/vda3"));
        assert_eq!(event.subsystem(), "block");
        assert_eq!(event.devnum(), Some((254, 3)));
        assert_eq!(event.devname(), Some("vda3"));
        assert_eq!(event.devtype(), Some("partition"));
        assert_eq!(event.partition_number(), Some(3));
        assert_eq!(event.modalias(), None);
        assert_eq!(event.get("DISKSEQ"), Some("9"));
        assert_eq!(event.pairs().count(), 10);
    }

    #[test]
    fn finds_the_modalias() {
        assert_eq!(
            Uevent::parse(VIRTIO).unwrap().modalias(),
            Some("virtio:d00000002v00001AF4")
        );
    }

    #[test]
    fn refuses_what_is_no_kernel_event() {
        let udev = [
            b"libudev\0".as_slice(),
            &[0xfe, 0xed, 0xca, 0xfe, 0, 0, 0, 40],
        ]
        .concat();
        assert_eq!(Uevent::parse(&udev), None);
        assert_eq!(Uevent::parse(b""), None);
        assert_eq!(Uevent::parse(b"add@/devices/x"), None);
        assert_eq!(
            Uevent::parse(b"add@/devices/x\0ACTION=add\0DEVPATH=/devices/y\0"),
            None
        );
        assert_eq!(
            Uevent::parse(b"add@/devices/x\0ACTION=remove\0DEVPATH=/devices/x\0"),
            None
        );
        assert_eq!(
            Uevent::parse(b"add@/devices/\xff\0ACTION=add\0DEVPATH=/devices/\xff\0"),
            None
        );
    }
}
