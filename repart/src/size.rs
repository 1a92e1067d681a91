//! Byte sizes and numbers as definition files and the command line write them (spec 1.2).

const UNITS: &[(char, u64)] = &[
    ('E', 1 << 60),
    ('P', 1 << 50),
    ('T', 1 << 40),
    ('G', 1 << 30),
    ('M', 1 << 20),
    ('K', 1 << 10),
    ('B', 1),
];

/// Parses `1G 512M`, `1.5M`, `4096`, …: base 1024, terms in descending unit order.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    let mut rest = text.trim();
    let mut total: u64 = 0;
    let mut first_allowed = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let whole: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let mut fraction = "";
        if let Some(after) = rest.strip_prefix('.') {
            let len = after
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(after.len());
            if len == 0 {
                return None;
            }
            (fraction, rest) = after.split_at(len);
        }
        rest = rest.trim_start();
        let unit = rest
            .chars()
            .next()
            .and_then(|c| UNITS.iter().position(|(suffix, _)| *suffix == c));
        let at = match unit {
            Some(at) => {
                rest = rest[1..].trim_start();
                at
            }
            None if rest.is_empty() => UNITS.len() - 1,
            None => return None,
        };
        if at < first_allowed {
            return None;
        }
        first_allowed = at + 1;
        let factor = UNITS[at].1;
        total = total
            .checked_add(whole.checked_mul(factor)?)?
            .checked_add(fraction_of(fraction, factor)?)?;
    }
    Some(total)
}

/// `0.<digits>` of `factor`, rounded down. Digits past the ninth cannot change a byte count people mean.
fn fraction_of(digits: &str, factor: u64) -> Option<u64> {
    let digits = &digits[..digits.len().min(18)];
    if digits.is_empty() {
        return Some(0);
    }
    let value: u128 = digits.parse().ok()?;
    let scale = 10u128.checked_pow(u32::try_from(digits.len()).ok()?)?;
    u64::try_from(value * u128::from(factor) / scale).ok()
}

/// Parses an unsigned integer with the prefixes `0x`, `0o`, `0b` and a leading 0 for octal.
#[must_use]
pub fn parse_u64(text: &str) -> Option<u64> {
    let (digits, radix) = radix_of(text);
    if digits.starts_with('+') {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

/// Parses a signed 32-bit integer, same prefixes.
#[must_use]
pub fn parse_i32(text: &str) -> Option<i32> {
    let (sign, rest) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    i32::try_from(i64::try_from(parse_u64(rest)?).ok()?.checked_mul(sign)?).ok()
}

fn radix_of(text: &str) -> (&str, u32) {
    for (prefix, radix) in [("0x", 16), ("0X", 16), ("0b", 2), ("0B", 2), ("0o", 8)] {
        if let Some(rest) = text.strip_prefix(prefix) {
            return (rest, radix);
        }
    }
    if text.len() > 1 && text.starts_with('0') {
        (&text[1..], 8)
    } else {
        (text, 10)
    }
}

/// Parses a boolean: 1/yes/y/true/t/on and their opposites, any case.
#[must_use]
pub fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "yes" | "y" | "true" | "t" | "on" => Some(true),
        "0" | "no" | "n" | "false" | "f" | "off" => Some(false),
        _ => None,
    }
}

/// Rounds up to a multiple of `unit` (not zero); saturates at the largest multiple.
pub(crate) fn round_up(value: u64, unit: u64) -> u64 {
    value
        .checked_next_multiple_of(unit)
        .unwrap_or_else(|| round_down(u64::MAX, unit))
}

/// Rounds down to a multiple of `unit`.
pub(crate) fn round_down(value: u64, unit: u64) -> u64 {
    value - value.checked_rem(unit).unwrap_or(0)
}

/// `12.5 MiB (13107200 bytes)`: a figure to read and one to act on.
pub(crate) fn human(bytes: u64) -> String {
    match UNITS
        .iter()
        .find(|(_, factor)| bytes >= *factor && *factor > 1)
    {
        None => format!("{bytes} B"),
        Some((suffix, factor)) => {
            let tenths = u128::from(bytes) * 10 / u128::from(*factor);
            format!("{}.{} {suffix}iB", tenths / 10, tenths % 10)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("4096", 4096),
            ("1K", 1024),
            ("1.5M", 1_572_864),
            ("1G 512M", (1 << 30) + (512 << 20)),
            ("1G512M", (1 << 30) + (512 << 20)),
            (" 2 M ", 2 << 20),
            ("0", 0),
            ("16E", u64::MAX),
        ] {
            let want = if bytes == u64::MAX { None } else { Some(bytes) };
            assert_eq!(parse_size(text), want, "{text}");
        }
        for bad in [
            "",
            "ten",
            "1m",
            "50%",
            "-1",
            "1K 1M",
            "1M 1M",
            "1.",
            ".5",
            "1 2",
            "18446744073709551616",
        ] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }

    #[test]
    fn numbers() {
        assert_eq!(parse_u64("0x8001000000000000"), Some(0x8001_0000_0000_0000));
        assert_eq!(parse_u64("010"), Some(8));
        assert_eq!(parse_u64("+1"), None);
        assert_eq!(parse_i32("-5"), Some(-5));
        assert_eq!(parse_i32("2147483648"), None);
        assert_eq!(parse_bool("Yes"), Some(true));
        assert_eq!(parse_bool("maybe"), None);
    }

    #[test]
    fn rounding_is_total() {
        assert_eq!(round_up(1, 4096), 4096);
        assert_eq!(round_up(u64::MAX, 4096), u64::MAX - 4095);
        assert_eq!(round_down(4097, 4096), 4096);
        assert_eq!(human(1_572_864), "1.5 MiB");
    }
}
