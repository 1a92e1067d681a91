//! The two things we ask of ELF files: the `.modinfo` of a module, and whether a program is static.
//! Reads 64-bit little-endian files only; every offset is checked, nothing is trusted.

/// What is wrong with an ELF file.
pub type Wrong = &'static str;

const PT_INTERP: u64 = 3;
const ET_REL: u64 = 1;
const SHT_NOBITS: u64 = 8;
const EM_X86_64: u64 = 62;

/// The `key=value` strings of a module's `.modinfo`.
///
/// # Errors
/// What makes the file no kernel module.
pub fn modinfo(elf: &[u8]) -> Result<Vec<(String, String)>, Wrong> {
    check_magic(elf)?;
    if number(elf, 16, 2)? != ET_REL {
        return Err("not a relocatable ELF file");
    }
    let sections = number(elf, 0x28, 8)?;
    let (size, count, names) = (
        number(elf, 0x3a, 2)?,
        number(elf, 0x3c, 2)?,
        number(elf, 0x3e, 2)?,
    );
    let header = |index: u64| {
        index
            .checked_mul(size)
            .and_then(|o| o.checked_add(sections))
            .ok_or("section table")
    };
    let names = body(elf, header(names)?)?;
    for index in 0..count {
        let at = header(index)?;
        let name = names
            .get(to_usize(number(elf, at, 4)?)?..)
            .ok_or("section name outside the file")?;
        if name.starts_with(b".modinfo\0") {
            return Ok(pairs(body(elf, at)?));
        }
    }
    Err("no .modinfo section")
}

/// Whether a program runs without a dynamic linker.
///
/// # Errors
/// Why not.
pub fn check_static(elf: &[u8]) -> Result<(), Wrong> {
    check_magic(elf)?;
    if number(elf, 18, 2)? != EM_X86_64 {
        return Err("built for another machine");
    }
    let table = number(elf, 0x20, 8)?;
    let (size, count) = (number(elf, 0x36, 2)?, number(elf, 0x38, 2)?);
    for index in 0..count {
        let at = index
            .checked_mul(size)
            .and_then(|o| o.checked_add(table))
            .ok_or("program header table")?;
        if number(elf, at, 4)? == PT_INTERP {
            return Err("it asks for a dynamic linker");
        }
    }
    Ok(())
}

fn check_magic(elf: &[u8]) -> Result<(), Wrong> {
    // Class 2 is 64 bit, data 1 is little endian.
    if elf.starts_with(b"\x7fELF\x02\x01") {
        Ok(())
    } else {
        Err("not a 64-bit little-endian ELF file")
    }
}

fn body(elf: &[u8], header: u64) -> Result<&[u8], Wrong> {
    if number(elf, header + 4, 4)? == SHT_NOBITS {
        return Ok(&[]);
    }
    let start = to_usize(number(elf, header + 0x18, 8)?)?;
    let length = to_usize(number(elf, header + 0x20, 8)?)?;
    start
        .checked_add(length)
        .and_then(|end| elf.get(start..end))
        .ok_or("section outside the file")
}

fn pairs(section: &[u8]) -> Vec<(String, String)> {
    section
        .split(|byte| *byte == 0)
        .filter_map(|item| {
            let (key, value) = std::str::from_utf8(item).ok()?.split_once('=')?;
            Some((key.to_owned(), value.to_owned()))
        })
        .collect()
}

fn number(elf: &[u8], at: u64, bytes: usize) -> Result<u64, Wrong> {
    let start = to_usize(at)?;
    let field = start
        .checked_add(bytes)
        .and_then(|end| elf.get(start..end))
        .ok_or("header outside the file")?;
    Ok(field
        .iter()
        .rev()
        .fold(0, |value, byte| (value << 8) | u64::from(*byte)))
}

fn to_usize(value: u64) -> Result<usize, Wrong> {
    usize::try_from(value)
        .ok()
        .filter(|v| isize::try_from(*v).is_ok())
        .ok_or("offset out of range")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
pub mod tests {
    use super::*;

    /// A minimal module: an ELF header, the section table, `.shstrtab` and `.modinfo`.
    pub fn module(modinfo: &[u8]) -> Vec<u8> {
        let names = b"\0.modinfo\0.shstrtab\0";
        let mut elf = vec![0; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[16] = 1;
        elf[18] = 62;
        elf[0x28] = 64;
        elf[0x3a] = 64;
        elf[0x3c] = 3;
        elf[0x3e] = 2;
        let data = 64 + 3 * 64;
        elf.resize(data, 0);
        let mut section = |index: usize, name: u8, offset: usize, length: usize| {
            let at = 64 + index * 64;
            elf[at] = name;
            elf[at + 4] = 1;
            elf[at + 0x18..at + 0x20]
                .copy_from_slice(&u64::try_from(offset).unwrap().to_le_bytes());
            elf[at + 0x20..at + 0x28]
                .copy_from_slice(&u64::try_from(length).unwrap().to_le_bytes());
        };
        section(1, 1, data, modinfo.len());
        section(2, 10, data + modinfo.len(), names.len());
        elf.extend_from_slice(modinfo);
        elf.extend_from_slice(names);
        elf
    }

    #[test]
    fn firmware_is_read_from_modinfo() {
        let elf = module(b"license=GPL\0firmware=a/b.bin\0firmware=c.bin\0");
        let firmware: Vec<_> = modinfo(&elf)
            .unwrap()
            .into_iter()
            .filter(|(key, _)| key == "firmware")
            .map(|(_, value)| value)
            .collect();
        assert_eq!(firmware, ["a/b.bin", "c.bin"]);
    }

    #[test]
    fn no_cut_or_flipped_file_makes_it_panic() {
        let elf = module(b"license=GPL\0");
        for cut in 0..elf.len() {
            assert!(modinfo(&elf[..cut]).is_err(), "cut at {cut}");
        }
        let mut answered = 0;
        for at in 0..256 {
            let mut bad = elf.clone();
            bad[at] = 0xff;
            answered +=
                usize::from(modinfo(&bad).is_ok()) + usize::from(check_static(&bad).is_ok());
        }
        assert!(answered > 0, "bytes that do not matter do not matter");
    }

    #[test]
    fn a_program_with_an_interpreter_is_not_static() {
        let mut elf = vec![0; 64 + 56];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[18] = 62;
        elf[0x20] = 64;
        elf[0x36] = 56;
        elf[0x38] = 1;
        elf[64] = 1;
        check_static(&elf).unwrap();
        elf[64] = 3;
        assert!(check_static(&elf).unwrap_err().contains("dynamic linker"));
        assert!(check_static(b"#!/bin/sh\n").is_err());
    }
}
