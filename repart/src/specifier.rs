//! `%` specifiers of definition files (spec 1.6). The values are passed in: nothing is looked up here.

use std::collections::BTreeMap;

/// The values of the specifiers. Unset ones expand to nothing; unknown letters are an error.
#[derive(Clone, Debug, Default)]
pub struct Specifiers {
    values: BTreeMap<char, String>,
}

/// Letters that exist; `%%` is handled apart.
const KNOWN: &str = "aAbBHlqmMovwWTV";

/// The specifier letter that is not known.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown specifier %{0}")]
pub struct UnknownSpecifier(pub char);

impl Specifiers {
    /// Takes `%o`, `%w`, `%W`, `%M`, `%A`, `%B` from the text of an os-release file.
    pub fn set_os_release(&mut self, text: &str) {
        for line in text.lines() {
            let Some((key, value)) = line.trim().split_once('=') else {
                continue;
            };
            let letter = match key {
                "ID" => 'o',
                "VERSION_ID" => 'w',
                "VARIANT_ID" => 'W',
                "IMAGE_ID" => 'M',
                "IMAGE_VERSION" => 'A',
                "BUILD_ID" => 'B',
                _ => continue,
            };
            self.values.insert(letter, unquote(value));
        }
    }

    /// Sets one letter, e.g. `m` to the machine ID or `a` to the architecture.
    pub fn set(&mut self, letter: char, value: impl Into<String>) {
        self.values.insert(letter, value.into());
    }

    /// Replaces every specifier in `text`.
    ///
    /// # Errors
    /// A letter or digit after `%` that is no specifier.
    pub fn expand(&self, text: &str) -> Result<String, UnknownSpecifier> {
        let mut out = String::with_capacity(text.len());
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            match chars.peek().copied() {
                Some('%') => {
                    chars.next();
                    out.push('%');
                }
                Some(letter) if KNOWN.contains(letter) => {
                    chars.next();
                    out.push_str(self.values.get(&letter).map_or("", String::as_str));
                }
                Some(letter) if letter.is_ascii_alphanumeric() => {
                    return Err(UnknownSpecifier(letter));
                }
                _ => out.push('%'),
            }
        }
        Ok(out)
    }
}

/// Shell-like quoting as os-release has it: one pair of quotes, backslash escapes inside double quotes.
fn unquote(value: &str) -> String {
    let value = value.trim();
    if let Some(inner) = value
        .strip_prefix('\'')
        .and_then(|rest| rest.strip_suffix('\''))
    {
        return inner.to_owned();
    }
    let inner = value
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .unwrap_or(value);
    let mut out = String::with_capacity(inner.len());
    let mut escaped = false;
    for c in inner.chars() {
        if c == '\\' && !escaped {
            escaped = true;
            continue;
        }
        escaped = false;
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expands() {
        let mut s = Specifiers::default();
        s.set_os_release("ID=testos\nVERSION_ID=\"12\"\nVARIANT_ID='server'\n# ID=no\n");
        assert_eq!(
            s.expand("%o-%w-%W%B|100%%|%").as_deref(),
            Ok("testos-12-server|100%|%")
        );
        assert_eq!(s.expand("%-%"), Ok("%-%".to_owned()));
        assert_eq!(s.expand("a%z"), Err(UnknownSpecifier('z')));
        assert_eq!(s.expand("a%1"), Err(UnknownSpecifier('1')));
    }
}
