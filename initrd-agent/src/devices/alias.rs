//! Which modules a device's modalias asks for: the patterns of modules.alias (depmod(8)).
//!
//! Invariant: a lookup compares 16 bytes of each pattern of the same bus and matches only what is left. With the 20 000
//! patterns of a full kernel that is well below a millisecond, and building the index is one pass over the text.

use std::ops::Range;

/// All patterns of a modules.alias.
#[derive(Debug, Default)]
pub struct AliasIndex {
    text: String,
    buses: Vec<Bus>,
}

/// The patterns that begin with the same letters up to the first colon. Those that have none, or a wildcard before it as
/// `acpi*:MSFT0101:*` has, are kept whole under no name and looked at for every device.
#[derive(Debug)]
struct Bus {
    name: String,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    /// The first bytes after the bus, as far as they are literal, and which of them are.
    key: u128,
    mask: u128,
    /// In the text: what follows the bus, and the module.
    pattern: Range<usize>,
    module: Range<usize>,
}

impl AliasIndex {
    /// Takes the text of modules.alias: lines `alias PATTERN MODULE`. Other lines are passed over.
    #[must_use]
    pub fn new(text: String) -> Self {
        let mut index = Self {
            text: String::new(),
            buses: Vec::new(),
        };
        let base = text.as_ptr() as usize;
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            if let (Some("alias"), Some(pattern), Some(module)) =
                (words.next(), words.next(), words.next())
            {
                let at = |part: &str| {
                    let start = part.as_ptr() as usize - base;
                    start..start + part.len()
                };
                let (bus, rest) = split(pattern);
                let (key, mask) = literal(rest);
                let entry = Entry {
                    key,
                    mask,
                    pattern: at(rest),
                    module: at(module),
                };
                index.bus(bus).entries.push(entry);
            }
        }
        index.text = text;
        index
    }

    /// The modules whose patterns match `modalias`, each once, in the order of the file.
    #[must_use]
    pub fn lookup(&self, modalias: &str) -> Vec<&str> {
        let (bus, rest) = split(modalias);
        let mut found = Vec::new();
        self.search(bus, rest, &mut found);
        if !bus.is_empty() {
            self.search("", modalias, &mut found);
        }
        found.sort_unstable();
        let mut names: Vec<&str> = Vec::new();
        for (_, name) in found {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// Collects the matching modules of one bus with their places in the text.
    fn search<'a>(&'a self, bus: &str, rest: &str, found: &mut Vec<(usize, &'a str)>) {
        let Some(bus) = self.buses.iter().find(|b| b.name == bus) else {
            return;
        };
        let (key, _) = literal_bytes(rest.as_bytes(), false);
        for entry in &bus.entries {
            if (entry.key ^ key) & entry.mask == 0
                && let Some(pattern) = self.text.get(entry.pattern.clone())
                && matches(pattern.as_bytes(), rest.as_bytes())
                && let Some(module) = self.text.get(entry.module.clone())
            {
                found.push((entry.module.start, module));
            }
        }
    }

    /// How many patterns there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buses.iter().map(|bus| bus.entries.len()).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buses.is_empty()
    }

    fn bus(&mut self, name: &str) -> &mut Bus {
        let at = self
            .buses
            .iter()
            .rposition(|bus| bus.name == name)
            .unwrap_or_else(|| {
                self.buses.push(Bus {
                    name: name.to_owned(),
                    entries: Vec::new(),
                });
                self.buses.len() - 1
            });
        &mut self.buses[at]
    }
}

/// Bus and the rest. A wildcard before the first colon means there is no one bus to speak of.
fn split(alias: &str) -> (&str, &str) {
    match alias.split_once(':') {
        Some((bus, rest)) if !bus.contains(['*', '?', '[']) => (bus, rest),
        _ => ("", alias),
    }
}

fn literal(pattern: &str) -> (u128, u128) {
    literal_bytes(pattern.as_bytes(), true)
}

/// Up to 16 bytes as a number, and a mask of those that are there. A pattern ends at its first wildcard.
fn literal_bytes(text: &[u8], pattern: bool) -> (u128, u128) {
    let mut key = [0_u8; 16];
    let mut mask = [0_u8; 16];
    for ((k, m), &byte) in key.iter_mut().zip(&mut mask).zip(text) {
        if pattern && matches!(byte, b'*' | b'?' | b'[') {
            break;
        }
        *k = fold(byte);
        *m = 0xff;
    }
    (u128::from_le_bytes(key), u128::from_le_bytes(mask))
}

/// The kernel's tools take `-` and `_` for the same.
fn fold(byte: u8) -> u8 {
    if byte == b'-' { b'_' } else { byte }
}

/// fnmatch(3) without flags: `*`, `?`, `[set]`, `[!set]`. On a mismatch the last `*` takes one byte more.
#[must_use]
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match step(&pattern[p..], text[t]) {
            Step::Star => {
                p += 1;
                star = Some((p, t));
            }
            Step::Matched(length) => {
                p += length;
                t += 1;
            }
            Step::Failed => match star {
                Some((after, taken)) => {
                    p = after;
                    t = taken + 1;
                    star = Some((after, t));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

enum Step {
    Star,
    Matched(usize),
    Failed,
}

/// Compares one byte with what the pattern begins with.
fn step(pattern: &[u8], byte: u8) -> Step {
    match pattern {
        [b'*', ..] => Step::Star,
        [b'?', ..] => Step::Matched(1),
        [b'[', set @ ..] => match in_set(set, byte) {
            Some((true, length)) => Step::Matched(length + 1),
            Some((false, _)) => Step::Failed,
            // An unclosed bracket is an ordinary letter.
            None if byte == b'[' => Step::Matched(1),
            None => Step::Failed,
        },
        [literal, ..] if fold(*literal) == fold(byte) => Step::Matched(1),
        _ => Step::Failed,
    }
}

/// Whether `byte` is in the set, and the set's length with its closing bracket.
fn in_set(set: &[u8], byte: u8) -> Option<(bool, usize)> {
    let negated = matches!(set.first(), Some(b'!' | b'^'));
    let first = usize::from(negated);
    let mut at = first;
    let mut found = false;
    loop {
        let low = *set.get(at)?;
        if low == b']' && at > first {
            return Some((found != negated, at + 1));
        }
        match (set.get(at + 1), set.get(at + 2)) {
            (Some(b'-'), Some(&high)) if high != b']' => {
                found |= (low..=high).contains(&byte);
                at += 3;
            }
            _ => {
                found |= low == byte;
                at += 1;
            }
        }
    }
}
