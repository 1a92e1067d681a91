//! The modules a general machine needs before its real root is mounted, each with its reason. What a module depends on
//! is not listed: `modules.rs` closes the set. What a kernel has built in, or does not have, is skipped, unless nothing
//! boots without it.

/// One wanted module.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Its name, as modprobe takes it.
    pub module: &'static str,
    /// The group of the size report.
    pub area: &'static str,
    /// Why it is here.
    pub reason: &'static str,
    /// Whether packing fails without it.
    pub required: bool,
}

const fn want(area: &'static str, module: &'static str, reason: &'static str) -> Wanted {
    Wanted {
        module,
        area,
        reason,
        required: false,
    }
}

const fn need(area: &'static str, module: &'static str, reason: &'static str) -> Wanted {
    Wanted {
        module,
        area,
        reason,
        required: true,
    }
}

/// Group of disk controllers and transports.
pub const STORAGE: &str = "modules: storage";
/// Group of file systems.
pub const FILE_SYSTEMS: &str = "modules: file systems";
/// Group of device mapper targets.
pub const MAPPER: &str = "modules: device mapper";
/// Group of ciphers, hashes and their CPU variants.
pub const CRYPTO: &str = "modules: crypto";
/// Group of TPM drivers, firmware interfaces, keyboards and consoles.
pub const PLATFORM: &str = "modules: platform";

/// The table.
pub const MODULES: &[Wanted] = &[
    need(MAPPER, "dm-mod", "every mapped device"),
    need(MAPPER, "dm-verity", "/usr is proved block by block"),
    need(MAPPER, "dm-crypt", "encrypted root, home and swap"),
    want(MAPPER, "dm-integrity", "integrity-protected volumes"),
    need(
        CRYPTO,
        "xts",
        "aes-xts-plain64, the cipher of LUKS2 volumes; nobody answers request_module in the initrd",
    ),
    want(
        CRYPTO,
        "aesni-intel",
        "AES in hardware: half the time of generic AES",
    ),
    want(CRYPTO, "cryptd", "the asynchronous half of aesni-intel"),
    want(CRYPTO, "sha256-ssse3", "dm-verity hashes, SSSE3/AVX/SHA-NI"),
    want(CRYPTO, "sha512-ssse3", "hmac(sha512) of integrity volumes"),
    want(
        CRYPTO,
        "sha256_generic",
        "dm-verity hashes where no faster one exists",
    ),
    want(
        CRYPTO,
        "crc32c_intel",
        "checksums of btrfs, ext4 and dm-integrity, SSE4.2",
    ),
    want(CRYPTO, "crc32c_generic", "the same where no SSE4.2 exists"),
    want(
        CRYPTO,
        "blake2b_generic",
        "btrfs volumes with blake2 checksums",
    ),
    want(
        CRYPTO,
        "xxhash_generic",
        "btrfs volumes with xxhash checksums",
    ),
    want(CRYPTO, "hmac", "integrity with a key"),
    want(CRYPTO, "authenc", "authenticated dm-crypt"),
    want(
        CRYPTO,
        "af_alg",
        "kernel ciphers from user space: libcryptsetup's fallback",
    ),
    want(CRYPTO, "algif_hash", "libcryptsetup's fallback: hashes"),
    want(
        CRYPTO,
        "algif_skcipher",
        "libcryptsetup's fallback: ciphers",
    ),
    want(
        CRYPTO,
        "algif_aead",
        "libcryptsetup's fallback: authenticated ciphers",
    ),
    want(
        CRYPTO,
        "algif_rng",
        "libcryptsetup's fallback: random numbers",
    ),
    want(FILE_SYSTEMS, "erofs", "/usr"),
    want(FILE_SYSTEMS, "squashfs", "/usr"),
    want(FILE_SYSTEMS, "btrfs", "root and home"),
    want(FILE_SYSTEMS, "ext4", "root and home"),
    want(FILE_SYSTEMS, "vfat", "the EFI system partition"),
    want(
        FILE_SYSTEMS,
        "nls_ascii",
        "vfat's default character set in Debian kernels",
    ),
    want(FILE_SYSTEMS, "nls_cp437", "vfat's default code page"),
    want(
        FILE_SYSTEMS,
        "nls_iso8859-1",
        "vfat's default character set upstream",
    ),
    want(FILE_SYSTEMS, "nls_utf8", "vfat mounted with utf8"),
    want(
        FILE_SYSTEMS,
        "overlay",
        "system and configuration extensions",
    ),
    want(FILE_SYSTEMS, "loop", "extension images"),
    want(
        FILE_SYSTEMS,
        "efivarfs",
        "which disk we were started from, factory reset requests",
    ),
    want(
        STORAGE,
        "virtio_pci",
        "virtual machines: the bus of virtio devices",
    ),
    want(
        STORAGE,
        "virtio_mmio",
        "micro virtual machines: the bus of virtio devices",
    ),
    want(STORAGE, "virtio_blk", "virtual machines: disk"),
    want(STORAGE, "virtio_scsi", "virtual machines: disk"),
    want(STORAGE, "sd_mod", "disks on SCSI, SATA and USB"),
    want(STORAGE, "nvme", "NVMe disks"),
    want(
        STORAGE,
        "vmd",
        "NVMe disks behind Intel's volume management device",
    ),
    want(STORAGE, "ahci", "SATA"),
    want(
        STORAGE,
        "ata_piix",
        "SATA and IDE of older machines and of virtual ones",
    ),
    want(
        STORAGE,
        "ata_generic",
        "IDE controllers without a driver of their own",
    ),
    want(STORAGE, "xhci_pci", "USB 3: disks and keyboards"),
    want(STORAGE, "ehci_pci", "USB 2: disks and keyboards"),
    want(STORAGE, "uhci_hcd", "USB 1: keyboards of older machines"),
    want(STORAGE, "ohci_pci", "USB 1: keyboards of older machines"),
    want(STORAGE, "usb-storage", "USB disks"),
    want(STORAGE, "uas", "USB disks, the faster protocol"),
    want(STORAGE, "mmc_block", "eMMC and SD"),
    want(STORAGE, "sdhci_pci", "eMMC and SD host"),
    want(STORAGE, "sdhci_acpi", "eMMC and SD host of small machines"),
    want(STORAGE, "ufshcd-pci", "UFS disks of tablets and laptops"),
    want(STORAGE, "hv_vmbus", "Hyper-V and Azure: the bus"),
    want(STORAGE, "hv_storvsc", "Hyper-V and Azure: disk"),
    want(STORAGE, "pci-hyperv", "Azure: NVMe disks"),
    want(STORAGE, "xen-blkfront", "Xen and older EC2: disk"),
    want(STORAGE, "xen-scsifront", "Xen: disk"),
    want(STORAGE, "vmw_pvscsi", "VMware: disk"),
    want(STORAGE, "mptspi", "VMware and VirtualBox: LSI Logic SCSI"),
    want(STORAGE, "mptsas", "VMware: LSI Logic SAS"),
    want(STORAGE, "mpt3sas", "servers: LSI/Broadcom SAS"),
    want(STORAGE, "megaraid_sas", "servers: LSI/Broadcom RAID"),
    want(STORAGE, "smartpqi", "servers: HPE and Microchip RAID"),
    want(STORAGE, "hpsa", "servers: older HPE RAID"),
    want(STORAGE, "aacraid", "servers: Adaptec RAID"),
    want(
        STORAGE,
        "virtio_pmem",
        "virtual machines: persistent memory as disk",
    ),
    want(PLATFORM, "tpm_tis", "TPM2 on LPC or SPI"),
    want(PLATFORM, "tpm_crb", "TPM2 in firmware"),
    want(PLATFORM, "qemu_fw_cfg", "credentials from the hypervisor"),
    want(
        PLATFORM,
        "virtio-rng",
        "virtual machines: entropy at first boot",
    ),
    want(PLATFORM, "virtio_console", "virtual machines: console"),
    want(
        PLATFORM,
        "simpledrm",
        "failure cards on the screen the firmware set up",
    ),
    want(PLATFORM, "i8042", "PS/2 and laptop keyboards: passphrases"),
    want(PLATFORM, "atkbd", "PS/2 and laptop keyboards: passphrases"),
    want(PLATFORM, "usbhid", "USB keyboards: passphrases"),
    want(PLATFORM, "hid-generic", "USB keyboards: passphrases"),
    want(PLATFORM, "hyperv-keyboard", "Hyper-V: keyboard"),
];

/// What `--mkfs` adds: who makes a file system wants to mount it.
pub const BY_MKFS: &[Wanted] = &[Wanted {
    module: "xfs",
    area: FILE_SYSTEMS,
    reason: "asked for by --mkfs xfs",
    required: true,
}];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_module_is_listed_once() {
        let mut seen = BTreeSet::new();
        for wanted in MODULES.iter().chain(BY_MKFS) {
            assert!(
                seen.insert(wanted.module.replace('-', "_")),
                "{} twice",
                wanted.module
            );
            assert!(!wanted.reason.is_empty());
        }
    }
}
