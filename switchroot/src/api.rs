//! The file systems through which a Linux program sees the machine, with the options the real system expects to find
//! (`spec/trust.md` 9.2). cgroup2 is left to the real system: it wants other options.

use crate::step::Step;

/// /proc, /sys, /dev, /run and securityfs, in the initramfs. To be applied to `/`; what is mounted already stays.
#[must_use]
pub fn early_api_mounts() -> Vec<Step<'static>> {
    vec![
        Step::directory("proc", 0o555),
        Step::filesystem("proc", "proc", "nosuid,nodev,noexec"),
        Step::directory("sys", 0o555),
        Step::filesystem("sys", "sysfs", "nosuid,nodev,noexec"),
        Step::directory("dev", 0o755),
        Step::filesystem("dev", "devtmpfs", "nosuid,strictatime,mode=0755"),
        Step::directory("run", 0o755),
        Step::filesystem(
            "run",
            "tmpfs",
            "nosuid,nodev,strictatime,mode=0755,size=20%,nr_inodes=800k",
        ),
        // Holds the TPM's event log. A kernel may lack it.
        Step::filesystem("sys/kernel/security", "securityfs", "nosuid,nodev,noexec").optional(),
    ]
}

/// efivarfs: on machines with EFI, once its module (if it is one) is loaded. Elsewhere the step is skipped,
/// because its directory exists with EFI only.
#[must_use]
pub fn efi_mounts() -> Vec<Step<'static>> {
    vec![
        Step::filesystem(
            "sys/firmware/efi/efivars",
            "efivarfs",
            "nosuid,nodev,noexec",
        )
        .optional(),
    ]
}
