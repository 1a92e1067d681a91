//! `early`: API file systems, consoles, command line, policy, and what systemd-stub handed over.

use crate::agent::{Agent, Outcome};
use crate::cmdline::Cmdline;
use crate::config::Config;
use crate::console::Console;
use crate::failure::{Failure, Remedy, Stage};
use std::fs::File;
use std::path::Path;
use sys::process::Inherited;

/// What the stub passes (`spec: systemd-stub(7)`) and where the booted system's tools look for it.
const HANDED_ON: [(&str, &str); 2] = [
    (".extra/tpm2-pcr-signature.json", "tpm2-pcr-signature.json"),
    (".extra/tpm2-pcr-public-key.pem", "tpm2-pcr-public-key.pem"),
];

/// A machine whose kernel can be talked to.
#[derive(Debug)]
pub struct Early {
    /// What the kernel gave this process, for its successor.
    pub inherited: Inherited,
    /// The signed PCR policy of the UKI, if it carries one.
    pub signed_policy: Option<SignedPolicy>,
}

/// The signed PCR policy as systemd-stub passes it.
#[derive(Debug, Clone)]
pub struct SignedPolicy {
    /// `.pcrsig`: signatures over PCR 11 policies, JSON.
    pub signatures: String,
    /// `.pcrpkey`: the signer's public key, PEM.
    pub public_key: String,
}

impl Early {
    /// Makes the machine talkable to.
    ///
    /// # Errors
    /// API file systems that cannot be mounted, a contradictory command line, a broken policy.
    pub fn begin(agent: &mut Agent) -> Result<Self, Failure> {
        let inherited = Inherited::capture();
        // The kernel tests its ciphers in threads that are still at it; on one processor that is most of a second of ours,
        // and a nice value does not help: whoever runs keeps its slice when we wake (EEVDF, Linux 6.6). Everybody waits
        // for the initrd, so it goes first. A refusal only makes it slower; the hand-over takes it back.
        sys::process::run_first(true).ok();
        let mounted = mount_api(agent);
        agent.console = Console::open(&agent.root);
        agent.stage(Stage::Early, |agent| {
            mounted?;
            agent.report.boot_id = read(agent, "proc/sys/kernel/random/boot_id").replace('-', "");
            agent.report.agent.sha256 = read(agent, "etc/initrd-agent/init.sha256");
            load_policy(agent)?;
            let signed_policy = hand_on_signatures(agent)?;
            Ok((
                Self {
                    inherited,
                    signed_policy,
                },
                Outcome::Done,
            ))
        })
    }
}

fn read(agent: &Agent, path: &str) -> String {
    std::fs::read_to_string(agent.root.join(path))
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn mount_api(agent: &Agent) -> Result<(), Failure> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| {
        Failure::new(
            Stage::Early,
            "api-mounts",
            "the kernel's API file systems",
            Remedy::FixImage,
            source,
        )
    };
    let root = File::open(&agent.root).map_err(|e| failed(Box::new(e)))?;
    let steps = switchroot::early_api_mounts();
    switchroot::apply(std::os::fd::AsFd::as_fd(&root), &steps).map_err(|e| failed(Box::new(e)))?;
    Ok(())
}

/// Reads `/proc/cmdline` and `agent.toml`.
fn load_policy(agent: &mut Agent) -> Result<(), Failure> {
    let path = agent.root.join("etc/initrd-agent/agent.toml");
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let (config, unknown) = Config::from_toml(&text).map_err(|e| {
                Failure::new(
                    Stage::Early,
                    "policy-invalid",
                    "/etc/initrd-agent/agent.toml",
                    Remedy::FixPolicy,
                    e,
                )
            })?;
            agent.config = config;
            for key in unknown {
                agent.warn(
                    "policy-unknown-key",
                    format!("agent.toml: unknown key {key} is ignored"),
                );
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => {
            return Err(Failure::new(
                Stage::Early,
                "policy-unreadable",
                "/etc/initrd-agent/agent.toml",
                Remedy::FixImage,
                error,
            ));
        }
    }
    let invalid = |e| {
        Failure::new(
            Stage::Early,
            "command-line-invalid",
            "the kernel command line",
            Remedy::FixPolicy,
            e,
        )
    };
    agent.cmdline = Cmdline::parse(&read(agent, "proc/cmdline")).map_err(invalid)?;
    if let Some(seconds) = agent.cmdline.timeout_seconds().map_err(invalid)? {
        agent.config.device_timeout = std::time::Duration::from_secs(seconds);
    }
    for option in agent.cmdline.refused() {
        agent.warn(
            "option-refused",
            format!("{option} on the kernel command line is not honoured"),
        );
    }
    Ok(())
}

/// Copies signature and key to `/run/systemd`: `/.extra` goes away with the initramfs, and systemd-cryptsetup in the
/// booted system needs them.
fn hand_on_signatures(agent: &Agent) -> Result<Option<SignedPolicy>, Failure> {
    let mut texts = Vec::new();
    for (source, name) in HANDED_ON {
        let source = agent.root.join(source);
        let text = match std::fs::read_to_string(&source) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(unreadable(&source, error)),
        };
        let directory = agent.root.join("run/systemd");
        let target = directory.join(name);
        std::fs::create_dir_all(&directory)
            .and_then(|()| std::fs::write(&target, &text))
            .map_err(|error| unreadable(&target, error))?;
        texts.push(text);
    }
    match <[String; 2]>::try_from(texts) {
        Ok([signatures, public_key]) => Ok(Some(SignedPolicy {
            signatures,
            public_key,
        })),
        Err(texts) if texts.is_empty() => Ok(None),
        // The signature section is not measured: whoever removes it must not get the weaker policy for it.
        Err(_) => Err(Failure::plain(
            Stage::Early,
            "pcr-signature-missing",
            "the UKI carries a PCR signature or its public key, but not both (.pcrsig, .pcrpkey)",
            Remedy::FixImage,
        )),
    }
}

fn unreadable(path: &Path, error: std::io::Error) -> Failure {
    Failure::new(
        Stage::Early,
        "pcr-signature",
        path.display().to_string(),
        Remedy::FixImage,
        error,
    )
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_key_without_its_signatures_is_no_image_without_a_policy() {
        let dir = tempfile::tempdir().unwrap();
        let agent = Agent::new(dir.path().to_owned());
        assert!(hand_on_signatures(&agent).unwrap().is_none());
        std::fs::create_dir(dir.path().join(".extra")).unwrap();
        let put = |name: &str| std::fs::write(dir.path().join(".extra").join(name), name).unwrap();
        put("tpm2-pcr-public-key.pem");
        let failure = hand_on_signatures(&agent).unwrap_err();
        assert_eq!(failure.code, "pcr-signature-missing");
        put("tpm2-pcr-signature.json");
        let policy = hand_on_signatures(&agent).unwrap().unwrap();
        assert_eq!(policy.signatures, "tpm2-pcr-signature.json");
        assert_eq!(policy.public_key, "tpm2-pcr-public-key.pem");
        for (_, name) in HANDED_ON {
            assert!(dir.path().join("run/systemd").join(name).exists());
        }
    }
}
