//! The socket against the running kernel: root can make it send an event again by writing to its `uevent` file.
#![expect(clippy::unwrap_used, reason = "a test may")]

use std::fs;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, sendto, socket_with};
use sys::uevent::{Received, Socket, Uevent};

const ID: &str = "2c1f7a52-51a6-4d3e-9d5e-0c6a4f0f6d11";

fn next(socket: &Socket, deadline: Instant) -> Option<Uevent> {
    loop {
        match socket.receive().unwrap() {
            Received::Event(event) => return Some(event),
            Received::Overflow => panic!("a few events overflow the buffer"),
            Received::Nothing if socket.wait(deadline).unwrap() => {}
            Received::Nothing => return None,
        }
    }
}

#[test]
fn the_kernels_events_arrive_and_forged_ones_do_not() {
    let socket = Socket::open().unwrap();
    // Somebody with privileges says a disk was added: to our port, as the kernel would say it.
    let port = rustix::net::getsockname(socket.as_fd())
        .ok()
        .and_then(|a| SocketAddrNetlink::try_from(a).ok())
        .unwrap();
    let forger = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(KOBJECT_UEVENT),
    )
    .unwrap();
    let lie = b"add@/devices/forged\0ACTION=add\0DEVPATH=/devices/forged\0SUBSYSTEM=block\0";
    sendto(
        &forger,
        lie,
        SendFlags::empty(),
        &SocketAddrNetlink::new(port.pid(), 0),
    )
    .unwrap();

    fs::write("/sys/class/mem/null/uevent", format!("change {ID} A=1")).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let event = next(&socket, deadline).expect("the event of /dev/null does not come");
        assert_ne!(event.devpath(), "/devices/forged");
        if event.get("SYNTH_UUID") == Some(ID) {
            assert_eq!(
                (event.action(), event.subsystem(), event.devname()),
                ("change", "mem", Some("null"))
            );
            assert_eq!(event.devnum(), Some((1, 3)));
            break;
        }
    }
}

#[test]
fn waiting_ends_at_the_deadline() {
    let socket = Socket::open().unwrap();
    let start = Instant::now();
    while next(&socket, start + Duration::from_millis(80)).is_some() {}
    assert!(start.elapsed() >= Duration::from_millis(80));
    assert!(start.elapsed() < Duration::from_secs(5));
}
