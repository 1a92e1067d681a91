//! The keys of one volume: found, made and sealed before anything is written.

use repart::ContentsError;
use repart::cli::EncryptRequest;
use repart::definition::Encrypt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use unlock::tpm::{PcrPolicy, Pcrs, PublicKey, Sealed, Secret, SignedPolicy, Tcti, Tpm};
use zeroize::Zeroizing;

use super::xts::KEY;

/// Longest key file, as systemd-cryptsetup reads them.
const KEY_FILE_MAX: u64 = 16 << 20;
/// Where systemd looks for the key that signs PCR policies.
const PUBLIC_KEYS: [&str; 3] = [
    "/etc/systemd/tpm2-pcr-public-key.pem",
    "/run/systemd/tpm2-pcr-public-key.pem",
    "/usr/lib/systemd/tpm2-pcr-public-key.pem",
];

pub(super) struct Keys {
    pub(super) volume: Zeroizing<[u8; KEY]>,
    /// Passphrase of a slot of its own.
    pub(super) file: Option<Zeroizing<Vec<u8>>>,
    pub(super) tpm: Option<(Secret, Sealed)>,
}

impl Keys {
    pub(super) fn find(
        request: &EncryptRequest<'_>,
        tpm: Option<&Tcti>,
    ) -> Result<Self, ContentsError> {
        let mode = request.definition.content.encrypt;
        let mut volume = Zeroizing::new([0; KEY]);
        random(&mut volume[..])?;
        let file = match mode {
            Encrypt::KeyFile | Encrypt::KeyFileTpm2 => Some(key_file(request)?),
            Encrypt::Off | Encrypt::Tpm2 => None,
        };
        let tpm = match mode {
            Encrypt::Tpm2 | Encrypt::KeyFileTpm2 => Some(seal(request, tpm)?),
            Encrypt::Off | Encrypt::KeyFile => None,
        };
        Ok(Self { volume, file, tpm })
    }
}

fn random(mut buffer: &mut [u8]) -> io::Result<()> {
    while !buffer.is_empty() {
        let got = rustix::rand::getrandom(&mut *buffer, rustix::rand::GetRandomFlags::empty())?;
        buffer = &mut buffer[got..];
    }
    Ok(())
}

/// `KeyFile=`, else `--key-file=`, else the empty passphrase: that is systemd-repart's rule, and the caller has said so or
/// refused.
fn key_file(request: &EncryptRequest<'_>) -> Result<Zeroizing<Vec<u8>>, ContentsError> {
    let own = request.definition.content.key_file.as_deref();
    let Some(path) = own.or(request.options.key_file.as_deref()) else {
        return Ok(Zeroizing::new(Vec::new()));
    };
    read_key(path).map_err(|error| format!("key file {}: {error}", path.display()).into())
}

fn read_key(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut source: Box<dyn Read> = if path.metadata()?.file_type().is_socket() {
        Box::new(UnixStream::connect(path)?)
    } else {
        Box::new(File::open(path)?)
    };
    let mut key = Zeroizing::new(Vec::new());
    source.by_ref().take(KEY_FILE_MAX).read_to_end(&mut key)?;
    if source.read(&mut [0])? != 0 {
        return Err(io::Error::other("longer than 16 MiB"));
    }
    Ok(key)
}

/// Seals a new secret and, where the policy can be met now, tries to get it back.
fn seal(
    request: &EncryptRequest<'_>,
    tpm: Option<&Tcti>,
) -> Result<(Secret, Sealed), ContentsError> {
    let device = request.options.tpm2_device.as_deref().unwrap_or("auto");
    let default = Tcti::Device(match device {
        "auto" => "/dev/tpmrm0".into(),
        path => path.into(),
    });
    let mut tpm = Tpm::open(tpm.unwrap_or(&default))?;
    let policy = policy(request)?;
    let secret = Secret::random()?;
    let sealed = tpm.seal(&secret, &policy)?;
    if policy.signed.is_none() && !tpm.unseal(&sealed, None)?.equals(&secret) {
        return Err("the TPM gives back another secret than it has just sealed".into());
    }
    Ok((secret, sealed))
}

fn policy(request: &EncryptRequest<'_>) -> Result<PcrPolicy, ContentsError> {
    let options = request.options;
    let own = request.definition.content.tpm2_pcrs.as_deref();
    let literal = pcrs(own.or(options.tpm2_pcrs.as_deref()).unwrap_or_default())?;
    let pem = match &options.tpm2_public_key {
        Some(path) => Some(
            std::fs::read_to_string(path)
                .map_err(|error| format!("public key {}: {error}", path.display()))?,
        ),
        None => PUBLIC_KEYS
            .iter()
            .find_map(|path| std::fs::read_to_string(path).ok()),
    };
    let signed = match pem {
        None => None,
        Some(pem) => Some(SignedPolicy {
            public_key: PublicKey::from_pem(&pem)?,
            pcrs: pcrs(options.tpm2_public_key_pcrs.as_deref().unwrap_or("11"))?,
        }),
    };
    if signed.is_none() && literal.is_empty() {
        return Err(
            "Encrypt=tpm2 without a policy would open to every system on this machine: \
             name PCRs (TPM2PCRs=, --tpm2-pcrs=) or a key that signs (--tpm2-public-key=)"
                .into(),
        );
    }
    Ok(PcrPolicy { signed, literal })
}

/// `7+11`, as systemd writes lists of PCRs; commas do as well.
fn pcrs(text: &str) -> Result<Pcrs, ContentsError> {
    let words = text.split(['+', ',']).map(str::trim);
    let numbers: Result<Vec<u8>, _> = words
        .filter(|word| !word.is_empty())
        .map(|word| word.strip_suffix(":sha256").unwrap_or(word).parse())
        .collect();
    let numbers = numbers.map_err(|_| format!("{text}: not a list of PCR numbers, e.g. 7+11"))?;
    Pcrs::try_of(&numbers).map_err(|pcr| format!("there is no PCR {pcr}").into())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn lists_of_pcrs() {
        assert_eq!(pcrs("7+11").unwrap(), Pcrs::try_of(&[7, 11]).unwrap());
        assert_eq!(pcrs("7:sha256, 4").unwrap(), Pcrs::try_of(&[4, 7]).unwrap());
        assert!(pcrs("").unwrap().is_empty());
        assert!(pcrs("24").unwrap_err().to_string().contains("no PCR 24"));
        assert!(pcrs("boot-loader-code").is_err());
    }
}
