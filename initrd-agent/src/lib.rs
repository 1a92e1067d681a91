//! The agent: what `init` and `initrd-agent` share.
