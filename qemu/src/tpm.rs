//! A software TPM per machine: state kept between boots, one `swtpm` process per boot.
//!
//! Invariant: QEMU can always connect. We bind and listen on the control socket ourselves and hand it to swtpm, so
//! there is no moment in which the socket is missing or refuses (swtpm#849, systemd#31751: races at start).

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::error::{Error, Result, file, no_file};
use crate::evidence;

/// Which interface the TPM shows to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TpmModel {
    /// The FIFO interface of most discrete chips.
    Tis,
    /// The command-response buffer of firmware TPMs; quicker in emulation.
    Crb,
}

impl TpmModel {
    /// QEMU's name of the device.
    #[must_use]
    pub fn device(self) -> &'static str {
        match self {
            Self::Tis => "tpm-tis",
            Self::Crb => "tpm-crb",
        }
    }
}

/// How long swtpm may take to end after its machine.
const GRACE: Duration = Duration::from_secs(2);
/// Name of the control socket in the machine's directory.
pub(crate) const SOCKET: &str = "tpm.sock";

/// Makes the state of a factory-fresh TPM in `state`, if there is none yet: one SHA-256 bank, like most of today's chips.
pub(crate) fn manufacture(state: &Path) -> Result<()> {
    if state.join("tpm2-00.permall").exists() {
        return Ok(());
    }
    fs::create_dir_all(state).map_err(file("create", state))?;
    let mut command = evidence::program("swtpm_setup");
    command.arg("--tpm2").arg("--tpmstate").arg(state).args([
        "--pcr-banks",
        "sha256",
        "--not-overwrite",
    ]);
    evidence::output(&mut command).map(drop)
}

/// Sets a password on the owner hierarchy, as an earlier owner may have left one: what needs that hierarchy fails from
/// then on. Speaks to the TPM without a machine around it.
pub(crate) fn set_owner_password(state: &Path) -> Result<()> {
    manufacture(state)?;
    let (mut ours, theirs) = UnixStream::pair().map_err(failed("make a socket pair"))?;
    ours.set_read_timeout(Some(GRACE))
        .map_err(failed("set deadline"))?;
    // swtpm takes no descriptor below 3 here, and a shell is the plain way to hand on another.
    let mut child = crate::machine::tied("sh")?
        .args(["-c", "exec swtpm socket --tpm2 --fd 3 --flags not-need-init,startup-clear --tpmstate \"$0\" 3<&0"])
        .arg(format!("dir={}", state.display()))
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stderr(Stdio::null())
        .spawn()
        .map_err(|source| Error::Start { program: "swtpm".into(), source })?;
    let mut answer = [0; 10];
    let spoken = ours
        .write_all(HIERARCHY_CHANGE_AUTH)
        .and_then(|()| ours.read_exact(&mut answer));
    drop(ours);
    let ended = child.wait();
    spoken
        .and(ended.map(drop))
        .map_err(failed("set the owner's password"))?;
    match answer {
        [.., 0, 0, 0, 0] => Ok(()),
        _ => Err(Error::Answer {
            program: "swtpm".into(),
            answer: format!("{answer:02x?}"),
        }),
    }
}

fn failed(what: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::Control { what, source }
}

/// `TPM2_HierarchyChangeAuth` (TCG TPM 2.0 library, part 3): owner, empty password session, new password `secret`.
const HIERARCHY_CHANGE_AUTH: &[u8] = b"\x80\x02\0\0\0\x23\0\0\x01\x29\x40\0\0\x01\
    \0\0\0\x09\x40\0\0\x09\0\0\0\0\0\0\x06secret";

/// A running `swtpm`. Killed on drop; its state stays.
pub(crate) struct Swtpm {
    child: Child,
    socket: PathBuf,
}

impl Swtpm {
    /// Starts swtpm over `state` and a socket in `dir`.
    pub(crate) fn start(dir: &Path, state: &Path) -> Result<Self> {
        let socket = dir.join(SOCKET);
        let listener = listen(dir)?;
        let log = dir.join("swtpm.log");
        let out = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(file("open", &log))?;
        let err = out.try_clone().map_err(file("open", &log))?;
        let child = crate::machine::tied("swtpm")?
            .args([
                "socket",
                "--tpm2",
                "--terminate",
                "--ctrl",
                "type=unixio,fd=0",
                "--tpmstate",
            ])
            .arg(format!("dir={}", state.display()))
            .current_dir(dir)
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stdout(out)
            .stderr(err)
            .spawn()
            .map_err(|source| Error::Start {
                program: "swtpm".into(),
                source,
            })?;
        Ok(Self { child, socket })
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        // QEMU is gone, so swtpm ends by itself once its state is written; what still runs then is stuck.
        let until = Instant::now() + GRACE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        // All three fail only for what is already gone.
        drop(self.child.kill());
        drop(self.child.wait());
        drop(fs::remove_file(&self.socket));
    }
}

/// Binds the socket through a directory descriptor: a socket's path may not be longer than 107 bytes.
fn listen(dir: &Path) -> Result<UnixListener> {
    let socket = dir.join(SOCKET);
    no_file(&socket)?;
    let handle = File::open(dir).map_err(file("open", dir))?;
    let short = format!("/proc/self/fd/{}/{SOCKET}", handle.as_raw_fd());
    UnixListener::bind(short).map_err(file("listen on", &socket))
}
