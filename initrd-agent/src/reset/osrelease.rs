//! os-release(5), as far as a reset request has to be compared with it.

use std::path::Path;

/// More is not read.
const LIMIT: u64 = 64 * 1024;

/// The four fields a request carries. An empty value counts as missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OsRelease {
    /// `ID=`.
    pub id: Option<String>,
    /// `IMAGE_ID=`.
    pub image_id: Option<String>,
    /// `VERSION_ID=`.
    pub version_id: Option<String>,
    /// `IMAGE_VERSION=`.
    pub image_version: Option<String>,
}

impl OsRelease {
    /// Reads a file; a missing one has no fields.
    ///
    /// # Errors
    /// What the file system says, other than that there is no such file.
    pub fn read(path: &Path) -> std::io::Result<Self> {
        use std::io::Read;
        let file = match std::fs::File::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            other => other?,
        };
        let mut bytes = Vec::new();
        file.take(LIMIT).read_to_end(&mut bytes)?;
        Ok(Self::parse(&String::from_utf8_lossy(&bytes)))
    }

    /// Takes the last assignment of each field.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            let Some((key, value)) = line.trim().split_once('=') else {
                continue;
            };
            let field = match key {
                "ID" => &mut found.id,
                "IMAGE_ID" => &mut found.image_id,
                "VERSION_ID" => &mut found.version_id,
                "IMAGE_VERSION" => &mut found.image_version,
                _ => continue,
            };
            *field = Some(unquote(value.trim_end())).filter(|value| !value.is_empty());
        }
        found
    }
}

/// Shell quoting, without expansion.
fn unquote(text: &str) -> String {
    let mut plain = String::new();
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(q), c) if q == c => quote = None,
            (None | Some('"'), '\\') => plain.extend(chars.next()),
            (_, c) => plain.push(c),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_comments_and_the_last_one_wins() {
        let text = "# ID=no\nID=\"a \\\"b\\\"\"\nIMAGE_ID='x\\y'\nVERSION_ID=\nID=debian\nIMAGE_VERSION=1\\ 2\nXID=z\n";
        let parsed = OsRelease::parse(text);
        assert_eq!(parsed.id.as_deref(), Some("debian"));
        assert_eq!(parsed.image_id.as_deref(), Some("x\\y"));
        assert_eq!(parsed.version_id, None);
        assert_eq!(parsed.image_version.as_deref(), Some("1 2"));
        assert_eq!(
            OsRelease::parse("ID=\"a \\\"b\\\"\"").id.as_deref(),
            Some("a \"b\"")
        );
    }
}
