//! Policies as systemd makes them, and their digests computed without a TPM (spec trust 2.3).
//!
//! Pure: PCR values, keys and signatures come in as bytes.

use sha2::{Digest, Sha256};

use super::TpmError;

/// A set of PCRs 0 to 23.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pcrs(u32);

impl Pcrs {
    /// No PCR.
    pub const NONE: Self = Self(0);

    /// A set of one; nothing if the PCR does not exist.
    pub fn one(pcr: u8) -> Self {
        if pcr < 24 { Self(1 << pcr) } else { Self::NONE }
    }

    /// A set from a list.
    ///
    /// # Errors
    /// The first number above 23.
    pub fn try_of(list: &[u8]) -> Result<Self, u8> {
        list.iter().try_fold(Self::NONE, |set, &pcr| {
            if pcr < 24 {
                Ok(Self(set.0 | 1 << pcr))
            } else {
                Err(pcr)
            }
        })
    }

    /// Ascending.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0u8..24).filter(move |pcr| self.0 >> pcr & 1 == 1)
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// `TPML_PCR_SELECTION` of the SHA-256 bank.
    fn selection(self) -> [u8; 10] {
        let mask = self.0.to_le_bytes();
        [0, 0, 0, 1, 0, 0x0b, 3, mask[0], mask[1], mask[2]]
    }
}

/// What a secret is sealed to. Both parts empty would seal to nothing and is refused by [`super::Tpm::seal`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PcrPolicy {
    /// PCR values for which the image's maker signed.
    pub signed: Option<SignedPolicy>,
    /// PCRs by their present value.
    pub literal: Pcrs,
}

impl PcrPolicy {
    /// Whatever value of PCR 11 the key signs for: survives updates of the image.
    pub fn signed(public_key: PublicKey) -> Self {
        Self {
            signed: Some(SignedPolicy {
                public_key,
                pcrs: Pcrs::one(11),
            }),
            literal: Pcrs::NONE,
        }
    }

    /// The present values, no others.
    pub fn literal(pcrs: Pcrs) -> Self {
        Self {
            signed: None,
            literal: pcrs,
        }
    }
}

/// A policy authorised by a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedPolicy {
    /// Who may sign.
    pub public_key: PublicKey,
    /// For which PCRs.
    pub pcrs: Pcrs,
}

/// An RSA public key from a PEM text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    pem: String,
    fingerprint: [u8; 32],
    modulus: Vec<u8>,
}

impl PublicKey {
    /// Reads `-----BEGIN PUBLIC KEY-----` with an RSA key of exponent 65537.
    ///
    /// # Errors
    /// [`TpmError::Key`].
    pub fn from_pem(pem: &str) -> Result<Self, TpmError> {
        use base64::Engine as _;
        const BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
        let key = |reason| TpmError::Key { reason };
        let body = pem
            .split_once(BEGIN)
            .and_then(|(_, rest)| rest.split_once("-----END PUBLIC KEY-----"))
            .map(|(body, _)| body.split_whitespace().collect::<String>())
            .filter(|body| body.len() <= 4096)
            .ok_or(key("no PEM text of a public key"))?;
        let der = base64::engine::general_purpose::STANDARD
            .decode(body)
            .map_err(|_| key("PEM text is not base64"))?;
        let (modulus, pkcs1) =
            rsa_modulus(&der).ok_or(key("not an RSA key with exponent 65537"))?;
        let fingerprint = Sha256::digest(pkcs1).into();
        if ![256, 384, 512].contains(&modulus.len()) {
            return Err(key("not an RSA key of 2048, 3072 or 4096 bits"));
        }
        Ok(Self {
            pem: pem.to_owned(),
            fingerprint,
            modulus,
        })
    }

    /// The text it came from.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// How signature files name the key: SHA-256 of the DER form of PKCS #1 (`RSAPublicKey`), which is what
    /// systemd-measure writes, and not of the `SubjectPublicKeyInfo` around it.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// `TPMT_PUBLIC` of the signer as systemd writes it.
    pub(super) fn tpmt_public(&self) -> Vec<u8> {
        let mut public = Vec::with_capacity(24 + self.modulus.len());
        public.extend([0x00, 0x01, 0x00, 0x0b]); // RSA, nameAlg SHA-256
        public.extend(0x0006_0040u32.to_be_bytes()); // decrypt, sign, userWithAuth
        public.extend([0, 0]); // no authPolicy
        public.extend([0x00, 0x10, 0x00, 0x10]); // symmetric and scheme NULL
        public.extend(be16(self.modulus.len() * 8));
        public.extend(0x0001_0001u32.to_be_bytes());
        public.extend(be16(self.modulus.len()));
        public.extend(&self.modulus);
        public
    }

    /// The TPM's name of the key.
    pub fn name(&self) -> Vec<u8> {
        name_of(&self.tpmt_public())
    }
}

/// Name of an object with nameAlg SHA-256: the algorithm and the digest of its `TPMT_PUBLIC`.
pub(super) fn name_of(tpmt_public: &[u8]) -> Vec<u8> {
    [&[0x00, 0x0b][..], &Sha256::digest(tpmt_public)].concat()
}

/// Lengths here are those of keys and digests; a longer one could not come out of the parsers.
pub(super) fn be16(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes()
}

/// PolicyPCR on top of `old`; `values` in ascending order of the PCRs.
pub fn policy_pcr(old: [u8; 32], pcrs: Pcrs, values: &[Vec<u8>]) -> [u8; 32] {
    let mut composite = Sha256::new();
    for value in values {
        composite.update(value);
    }
    let composite: [u8; 32] = composite.finalize().into();
    Sha256::digest(
        [
            &old[..],
            &0x17fu32.to_be_bytes(),
            &pcrs.selection(),
            &composite,
        ]
        .concat(),
    )
    .into()
}

/// PolicyAuthorize: what came before is replaced.
pub fn policy_authorize(key_name: &[u8], policy_ref: &[u8]) -> [u8; 32] {
    let inner = Sha256::digest([&[0u8; 32][..], &0x16au32.to_be_bytes(), key_name].concat());
    Sha256::digest([&inner[..], policy_ref].concat()).into()
}

/// The modulus of a DER `SubjectPublicKeyInfo`, without leading zero, and the `RSAPublicKey` within; only for exponent 65537.
fn rsa_modulus(der: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    const RSA: &[u8] = &[
        0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
    ];
    let (info, rest) = der_element(der, 0x30)?;
    let bits = info.strip_prefix(RSA)?;
    let (bits, tail) = der_element(bits, 0x03)?;
    let pkcs1 = bits.strip_prefix(&[0])?;
    let (key, key_rest) = der_element(pkcs1, 0x30)?;
    let (modulus, exponent) = der_element(key, 0x02)?;
    let (exponent, end) = der_element(exponent, 0x02)?;
    let whole = rest.is_empty() && tail.is_empty() && key_rest.is_empty() && end.is_empty();
    let modulus = modulus.strip_prefix(&[0]).unwrap_or(modulus).to_vec();
    (whole && exponent == [1, 0, 1]).then_some((modulus, pkcs1))
}

/// Splits one element with the given tag off; lengths of up to two bytes.
fn der_element(data: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let data = data.strip_prefix(&[tag])?;
    let (length, data) = match data {
        [0x82, high, low, rest @ ..] => (usize::from(*high) << 8 | usize::from(*low), rest),
        [0x81, length, rest @ ..] => (usize::from(*length), rest),
        [length @ 0..=0x7f, rest @ ..] => (usize::from(*length), rest),
        _ => return None,
    };
    data.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extend(pcr: [u8; 32], word: &str) -> [u8; 32] {
        Sha256::digest([&pcr[..], &Sha256::digest(word)].concat()).into()
    }

    #[test]
    fn policy_pcr_of_an_unextended_pcr() {
        let digest = policy_pcr([0; 32], Pcrs::one(11), &[vec![0; 32]]);
        assert_eq!(
            hex::encode(digest),
            "fd32fa22c52cfc8e1a0c29eb38519f87084cab0b04b0d8f020a4d38b2f4e223e"
        );
    }

    #[test]
    fn policy_pcr_after_the_initrd_phase() {
        let pcr = extend([0; 32], "enter-initrd");
        assert_eq!(
            hex::encode(pcr),
            "d15b0e8e244e65c40f024e95773f2347ce4ef3ffe6b597c9a14b50bbab6df319"
        );
        let digest = policy_pcr([0; 32], Pcrs::one(11), &[pcr.to_vec()]);
        assert_eq!(
            hex::encode(digest),
            "7c8486f61cc1d88a28d6ab87850bee07c467ce6311340219e43a7a6e6521e543"
        );
        let pcr = extend(pcr, "leave-initrd");
        assert_eq!(
            hex::encode(pcr),
            "75df9c8b17d8a6465f2862028b892ea13a3d7c37685a945e5ff34fb44956c207"
        );
    }

    #[test]
    fn der_lengths_beyond_the_data_are_refused() {
        assert_eq!(der_element(&[0x30, 0x05, 1, 2], 0x30), None);
        assert_eq!(der_element(&[0x30, 0x82, 0xff], 0x30), None);
        assert_eq!(der_element(&[0x30, 0x84, 0, 0, 0, 1, 7], 0x30), None);
        assert_eq!(
            der_element(&[0x02, 0x01, 7, 8], 0x02),
            Some((&[7][..], &[8][..]))
        );
    }

    #[test]
    fn keys_that_are_not_rsa_are_refused() {
        for pem in [
            "",
            "-----BEGIN PUBLIC KEY-----",
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
        ] {
            assert!(
                matches!(PublicKey::from_pem(pem), Err(TpmError::Key { .. })),
                "{pem}"
            );
        }
    }

    #[test]
    fn sets_of_pcrs() {
        assert_eq!(
            Pcrs::try_of(&[11, 7, 11]).map(|p| p.iter().collect::<Vec<_>>()),
            Ok(vec![7, 11])
        );
        assert_eq!(Pcrs::try_of(&[7, 24]), Err(24));
        assert!(Pcrs::one(24).is_empty());
    }
}
