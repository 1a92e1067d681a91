//! Any bytes as definition files, divided at NUL: the parser answers, and what it answers is consistent.
#![no_main]

use libfuzzer_sys::fuzz_target;
use repart::{Architecture, PartitionType, parse_bool, parse_size};
use repart_fuzz::Texts;

fuzz_target!(|data: &[u8]| {
    let texts = Texts(
        data.split(|byte| *byte == 0)
            .take(8)
            .map(<[u8]>::to_vec)
            .collect(),
    );
    match texts.load() {
        Ok(definitions) => {
            for definition in &definitions.list {
                for (low, high) in [
                    (definition.size_min, definition.size_max),
                    (definition.padding_min, definition.padding_max),
                ] {
                    assert!(
                        low.zip(high).is_none_or(|(low, high)| low <= high),
                        "{definition:?}"
                    );
                    assert!(low.is_none_or(|low| low % 4096 == 0), "{definition:?}");
                }
                let label = definition.label.as_deref().unwrap_or_default();
                assert!(label.len() <= 36, "{label:?}");
                assert!(definition.weight <= 1_000_000 && definition.padding_weight <= 1_000_000);
                let name = definition.partition_type.name_or_uuid();
                let again = PartitionType::parse(&name, Architecture::native());
                assert_eq!(again, Some(definition.partition_type.clone()), "{name}");
                std::hint::black_box(definition.attributes());
            }
            for warning in &definitions.warnings {
                assert!(!warning.to_string().is_empty());
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    if let Some(text) = data
        .get(..40.min(data.len()))
        .and_then(|text| std::str::from_utf8(text).ok())
    {
        std::hint::black_box(parse_size(text));
        std::hint::black_box(parse_bool(text));
    }
});
