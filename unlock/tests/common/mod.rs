//! A software TPM of its own for every test, and a signer of PCR policies that is not ours (openssl).

#![allow(dead_code, reason = "every test program uses its own part")]

use std::net::{TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use unlock::tpm::{Tcti, Tpm};

/// swtpm with a fresh state; ends with the test. A missing swtpm fails the test.
pub struct Swtpm {
    state: TempDir,
    port: u16,
    child: Child,
}

impl Swtpm {
    pub fn new() -> Self {
        let state = TempDir::new().expect("temporary directory");
        let (port, child) = start(state.path());
        Self { state, port, child }
    }

    /// Power cycle: PCRs start over, keys stay.
    pub fn reboot(&mut self) {
        self.child.kill().expect("kill swtpm");
        self.child.wait().expect("wait for swtpm");
        (self.port, self.child) = start(self.state.path());
    }

    pub fn tcti(&self) -> Tcti {
        Tcti::Swtpm { port: self.port }
    }

    pub fn open(&self) -> Tpm {
        Tpm::open(&self.tcti()).expect("open the TPM")
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn start(state: &Path) -> (u16, Child) {
    for _ in 0..20 {
        // tss wants the control channel one port above the command channel.
        let first = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = first.local_addr().expect("address").port();
        let Some(control) = port.checked_add(1) else {
            continue;
        };
        if TcpListener::bind(("127.0.0.1", control)).is_err() {
            continue;
        }
        drop(first);
        let mut child = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .arg("--tpmstate")
            .arg(format!("dir={}", state.display()))
            .arg("--server")
            .arg(format!("type=tcp,port={port},bindaddr=127.0.0.1"))
            .arg("--ctrl")
            .arg(format!("type=tcp,port={control},bindaddr=127.0.0.1"))
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("swtpm must be installed");
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline && child.try_wait().expect("swtpm").is_none() {
            if TcpStream::connect(("127.0.0.1", control)).is_ok() {
                return (port, child);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        drop(child.kill());
        drop(child.wait());
    }
    panic!("swtpm does not start");
}

pub fn run(program: &str, args: &[&str]) -> Vec<u8> {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("{program} must be installed: {e}"));
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// An RSA key pair made by openssl, and signature files made with it.
pub struct Signer {
    dir: TempDir,
}

impl Signer {
    pub fn new() -> Self {
        let dir = TempDir::new().expect("temporary directory");
        let signer = Self { dir };
        run(
            "openssl",
            &[
                "genpkey",
                "-quiet",
                "-algorithm",
                "RSA",
                "-pkeyopt",
                "rsa_keygen_bits:2048",
                "-out",
                &signer.path("key"),
            ],
        );
        signer
    }

    fn path(&self, name: &str) -> String {
        self.dir
            .path()
            .join(name)
            .to_str()
            .expect("UTF-8")
            .to_owned()
    }

    pub fn pem(&self) -> String {
        String::from_utf8(run(
            "openssl",
            &["pkey", "-in", &self.path("key"), "-pubout"],
        ))
        .expect("PEM")
    }

    /// What `.pcrsig` would hold for these policy digests.
    pub fn sign(&self, policies: &[[u8; 32]]) -> String {
        let der = run(
            "openssl",
            &[
                "rsa",
                "-in",
                &self.path("key"),
                "-RSAPublicKey_out",
                "-outform",
                "DER",
            ],
        );
        std::fs::write(self.path("der"), der).expect("write");
        let digest = run("openssl", &["dgst", "-sha256", "-r", &self.path("der")]);
        let fingerprint = String::from_utf8(digest[..64].to_vec()).expect("hex");
        let entries: Vec<String> = policies
            .iter()
            .map(|policy| {
                std::fs::write(self.path("policy"), policy).expect("write");
                run(
                    "openssl",
                    &[
                        "dgst",
                        "-sha256",
                        "-sign",
                        &self.path("key"),
                        "-out",
                        &self.path("sig"),
                        &self.path("policy"),
                    ],
                );
                let signature = run("openssl", &["base64", "-A", "-in", &self.path("sig")]);
                format!(
                    r#"{{"pcrs":[11],"pkfp":"{fingerprint}","pol":"{}","sig":"{}"}}"#,
                    hex::encode(policy),
                    String::from_utf8(signature).expect("base64").trim()
                )
            })
            .collect();
        format!(r#"{{"sha256":[{}]}}"#, entries.join(","))
    }
}

/// Runs a test's body on the one thread of this program that may call libcryptsetup.
pub fn on_crypt_thread(body: impl FnOnce() + Send + 'static) {
    type Job = (Box<dyn FnOnce() + Send>, Sender<std::thread::Result<()>>);
    static THREAD: LazyLock<Mutex<Sender<Job>>> = LazyLock::new(|| {
        let (sender, jobs) = channel::<Job>();
        std::thread::spawn(move || {
            for (body, done) in jobs {
                // The test may be gone already; nothing is lost then.
                drop(done.send(catch_unwind(AssertUnwindSafe(body))));
            }
        });
        Mutex::new(sender)
    });
    let (done, result) = channel();
    THREAD
        .lock()
        .expect("lock")
        .send((Box::new(body), done))
        .expect("the thread runs");
    if let Err(panic) = result.recv().expect("an answer") {
        resume_unwind(panic);
    }
}
