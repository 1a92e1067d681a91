//! The command line: raw arguments become one typed [`Options`] (spec 6.1).

use std::ffi::OsString;
use std::path::PathBuf;

use super::encryption::KeyOptions;
use crate::{Architecture, EmptyMode, Guid, PartitionType, TypeFilter, parse_bool, parse_size};
use lexopt::prelude::*;

/// What was asked for.
pub(super) enum Command {
    /// `--help` or `--version`.
    Print(String),
    Run(Box<Options>),
}

/// `--seed=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seed {
    /// The machine ID, else random.
    Default,
    Random,
    Fixed(Guid),
}

/// `--size=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    Keep,
    Auto,
    Bytes(u64),
}

/// `--json=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Json {
    Off,
    Short,
    Pretty,
}

#[expect(clippy::struct_excessive_bools, reason = "one field an option")]
pub(super) struct Options {
    pub(super) dry_run: bool,
    pub(super) empty: EmptyMode,
    pub(super) discard: bool,
    pub(super) size: Size,
    pub(super) factory_reset: bool,
    pub(super) can_factory_reset: bool,
    pub(super) list_devices: bool,
    pub(super) root: Option<PathBuf>,
    pub(super) image: Option<PathBuf>,
    pub(super) copy_source: Option<PathBuf>,
    pub(super) keys: KeyOptions,
    pub(super) seed: Seed,
    pub(super) pretty: Option<bool>,
    pub(super) legend: bool,
    pub(super) json: Json,
    pub(super) definitions: Vec<PathBuf>,
    pub(super) filter: TypeFilter,
    pub(super) defer: Vec<PartitionType>,
    pub(super) sector_size: Option<u32>,
    pub(super) grain: u64,
    pub(super) architecture: Option<Architecture>,
    /// All deviations from systemd-repart 262 on.
    pub(super) own_rules: bool,
    pub(super) device: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            dry_run: true,
            empty: EmptyMode::Refuse,
            discard: true,
            size: Size::Keep,
            factory_reset: false,
            can_factory_reset: false,
            list_devices: false,
            root: None,
            image: None,
            copy_source: None,
            keys: KeyOptions::default(),
            seed: Seed::Default,
            pretty: None,
            legend: true,
            json: Json::Off,
            definitions: Vec::new(),
            filter: TypeFilter::All,
            defer: Vec::new(),
            sector_size: None,
            grain: 4096,
            architecture: None,
            own_rules: false,
            device: None,
        }
    }
}

/// systemd-repart's options that we know and do not do, with the reason.
const REFUSED: &[(&str, &str)] = &[
    ("image-policy", "file systems of images are not mounted"),
    ("split", "splitting images is a build step"),
    ("make-ddi", "making DDIs is a build step"),
    ("generate-fstab", "generating files is a build step"),
    ("generate-crypttab", "generating files is a build step"),
    ("append-fstab", "generating files is a build step"),
    ("cow", "copying images is a build step"),
    (
        "copy-from",
        "taking over another image's partitions is a build step",
    ),
    ("el-torito", "making CD images is a build step"),
    ("el-torito-system", "making CD images is a build step"),
    ("el-torito-volume", "making CD images is a build step"),
    ("el-torito-publisher", "making CD images is a build step"),
    ("private-key", "signing is a build step"),
    ("private-key-source", "signing is a build step"),
    ("certificate", "signing is a build step"),
    ("certificate-source", "signing is a build step"),
    ("join-signature", "signing is a build step"),
    (
        "tpm2-device-key",
        "sealing for an absent TPM is a build step",
    ),
    (
        "tpm2-seal-key-handle",
        "keys are sealed below the storage root key",
    ),
    ("tpm2-public-key-policyref", "not supported"),
    ("tpm2-pcrlock", "not supported; see --tpm2-public-key="),
    ("defer-partitions-empty", "not supported"),
    ("defer-partitions-factory-reset", "not supported"),
];

/// Reads the words of a command line; the first is the program's name.
pub(super) fn parse(words: Vec<OsString>) -> Result<Command, lexopt::Error> {
    parse_from(lexopt::Parser::from_iter(words))
}

fn parse_from(mut parser: lexopt::Parser) -> Result<Command, lexopt::Error> {
    let mut options = Options::default();
    let (mut include, mut exclude): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    let mut defer = Vec::new();
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(Command::Print(HELP.to_owned())),
            Long("version") => {
                return Ok(Command::Print(
                    concat!("repart ", env!("CARGO_PKG_VERSION"), "\n").to_owned(),
                ));
            }
            Short('n') => options.dry_run = true,
            Long("dry-run") => options.dry_run = boolean(&mut parser)?,
            Long("discard") => options.discard = boolean(&mut parser)?,
            Long("factory-reset") => options.factory_reset = boolean(&mut parser)?,
            Long("can-factory-reset") => options.can_factory_reset = true,
            Long("pretty") => options.pretty = Some(boolean(&mut parser)?),
            Long("no-legend") => options.legend = false,
            Long("no-pager") => {}
            Long("empty") => options.empty = empty_mode(&text(&mut parser)?)?,
            Long("size") => options.size = size(&text(&mut parser)?)?,
            Long("seed") => options.seed = seed(&text(&mut parser)?)?,
            Long("json") => options.json = json(&text(&mut parser)?)?,
            Long("list-devices") => options.list_devices = true,
            Long("root") => options.root = Some(parser.value()?.into()),
            Long("image") => options.image = Some(parser.value()?.into()),
            Short('s') | Long("copy-source") => {
                options.copy_source = Some(parser.value()?.into());
            }
            Long("key-file") => options.keys.key_file = Some(parser.value()?.into()),
            Long("tpm2-device") => options.keys.tpm2_device = Some(text(&mut parser)?),
            Long("tpm2-pcrs") => options.keys.tpm2_pcrs = Some(text(&mut parser)?),
            Long("tpm2-public-key") => {
                options.keys.tpm2_public_key = Some(parser.value()?.into());
            }
            Long("tpm2-public-key-pcrs") => {
                options.keys.tpm2_public_key_pcrs = Some(text(&mut parser)?);
            }
            Long("definitions") => options.definitions.push(parser.value()?.into()),
            Long("include-partitions") => include.extend(words(&text(&mut parser)?)),
            Long("exclude-partitions") => exclude.extend(words(&text(&mut parser)?)),
            Long("defer-partitions") => defer.extend(words(&text(&mut parser)?)),
            Long("sector-size") => options.sector_size = Some(sector_size(&text(&mut parser)?)?),
            Long("grain-size") => options.grain = grain(&text(&mut parser)?)?,
            Long("architecture") => options.architecture = Some(architecture(&text(&mut parser)?)?),
            // Loop devices and device-mapper are never used, so every value is honoured.
            Long("offline") => offline(&text(&mut parser)?)?,
            Long("rules") => options.own_rules = rules(&text(&mut parser)?)?,
            Value(device) if options.device.is_none() => options.device = Some(device.into()),
            Value(extra) => return Err(format!("unexpected argument {}", extra.display()).into()),
            Short('S' | 'C' | 'P') => {
                return Err("-S, -C and -P are not supported: making DDIs is a build step".into());
            }
            Long(name) => return Err(refusal(name)),
            other => return Err(other.unexpected()),
        }
    }
    options.filter = filter(&include, &exclude)?;
    options.defer = types(&defer)?;
    check(&mut options)?;
    Ok(Command::Run(Box::new(options)))
}

fn check(options: &mut Options) -> Result<(), lexopt::Error> {
    if options.empty == EmptyMode::Create {
        options.dry_run = false;
        if options.size == Size::Keep {
            return Err("--empty=create needs --size=".into());
        }
    }
    if options.can_factory_reset {
        options.dry_run = true;
    }
    if options.root.is_some() && options.image.is_some() {
        return Err("--root= and --image= exclude each other".into());
    }
    if options.image.is_some() && options.definitions.is_empty() {
        let why = "--image= needs --definitions=: file systems of images are not mounted";
        return Err(why.into());
    }
    let replacing = matches!(
        options.empty,
        EmptyMode::Force | EmptyMode::Require | EmptyMode::Create
    );
    if replacing && (options.factory_reset || options.can_factory_reset) {
        return Err(format!(
            "a factory reset and --empty={} exclude each other",
            options.empty.name()
        )
        .into());
    }
    Ok(())
}

fn refusal(name: &str) -> lexopt::Error {
    match REFUSED.iter().find(|(option, _)| *option == name) {
        Some((_, why)) => format!("--{name} is not supported: {why}").into(),
        None => format!("unknown option --{name}").into(),
    }
}

fn text(parser: &mut lexopt::Parser) -> Result<String, lexopt::Error> {
    parser
        .value()?
        .into_string()
        .map_err(|raw: OsString| format!("{} is not valid UTF-8", raw.display()).into())
}

fn boolean(parser: &mut lexopt::Parser) -> Result<bool, lexopt::Error> {
    let value = text(parser)?;
    parse_bool(&value).ok_or_else(|| format!("{value} is not a boolean").into())
}

fn words(text: &str) -> Vec<String> {
    text.split(',')
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

fn types(names: &[String]) -> Result<Vec<PartitionType>, lexopt::Error> {
    let parse = |name: &String| {
        PartitionType::parse(name, Architecture::native())
            .ok_or_else(|| format!("unknown partition type {name}").into())
    };
    names.iter().map(parse).collect()
}

fn filter(include: &[String], exclude: &[String]) -> Result<TypeFilter, lexopt::Error> {
    match (include.is_empty(), exclude.is_empty()) {
        (true, true) => Ok(TypeFilter::All),
        (false, true) => Ok(TypeFilter::Include(types(include)?)),
        (true, false) => Ok(TypeFilter::Exclude(types(exclude)?)),
        (false, false) => {
            Err("--include-partitions= and --exclude-partitions= exclude each other".into())
        }
    }
}

fn empty_mode(text: &str) -> Result<EmptyMode, lexopt::Error> {
    let all = [
        EmptyMode::Refuse,
        EmptyMode::Allow,
        EmptyMode::Require,
        EmptyMode::Force,
        EmptyMode::Create,
    ];
    match all.into_iter().find(|mode| mode.name() == text) {
        Some(mode) => Ok(mode),
        None if text.is_empty() => Ok(EmptyMode::Refuse),
        None => {
            Err(format!("--empty={text}: not one of refuse, allow, require, force, create").into())
        }
    }
}

fn size(text: &str) -> Result<Size, lexopt::Error> {
    if text == "auto" {
        return Ok(Size::Auto);
    }
    let bytes = parse_size(text).and_then(|bytes| bytes.checked_next_multiple_of(4096));
    bytes
        .map(Size::Bytes)
        .ok_or_else(|| format!("--size={text}: not a size").into())
}

fn seed(text: &str) -> Result<Seed, lexopt::Error> {
    match text {
        "" => Ok(Seed::Default),
        "random" => Ok(Seed::Random),
        uuid => Guid::parse(uuid)
            .map(Seed::Fixed)
            .ok_or_else(|| format!("--seed={uuid}: not a UUID").into()),
    }
}

fn json(text: &str) -> Result<Json, lexopt::Error> {
    match text {
        "off" => Ok(Json::Off),
        "short" => Ok(Json::Short),
        "pretty" => Ok(Json::Pretty),
        other => Err(format!("--json={other}: not one of pretty, short, off").into()),
    }
}

fn sector_size(text: &str) -> Result<u32, lexopt::Error> {
    let bytes = parse_size(text).and_then(|bytes| u32::try_from(bytes).ok());
    let good = bytes.filter(|bytes| bytes.is_power_of_two() && (512..=4096).contains(bytes));
    good.ok_or_else(|| format!("--sector-size={text}: not a power of two in 512…4096").into())
}

fn grain(text: &str) -> Result<u64, lexopt::Error> {
    let good = parse_size(text).filter(|bytes| bytes.is_power_of_two() && *bytes >= 512);
    good.ok_or_else(|| format!("--grain-size={text}: not a power of two of at least 512").into())
}

fn architecture(text: &str) -> Result<Architecture, lexopt::Error> {
    Architecture::parse(text).ok_or_else(|| format!("--architecture={text}: unknown").into())
}

fn offline(text: &str) -> Result<(), lexopt::Error> {
    if text == "auto" || parse_bool(text).is_some() {
        Ok(())
    } else {
        Err(format!("--offline={text}: not one of yes, no, auto").into())
    }
}

fn rules(text: &str) -> Result<bool, lexopt::Error> {
    match text {
        "systemd" => Ok(false),
        "own" => Ok(true),
        other => Err(format!("--rules={other}: not one of systemd, own").into()),
    }
}

const HELP: &str = "\
repart [OPTIONS...] [DEVICE]

Grow and add partitions by the definitions in repart.d.
Without DEVICE the disk of the root file system is meant.

  -h --help                      Show this help
     --version                   Show the version
     --list-devices              List disks that can be named

  -n --dry-run[=BOOL]            Only show what would be done (default: yes)
     --empty=MODE                Disk without a table: refuse, allow, require, force, create
     --size=BYTES|auto           Make the image file at least this large
     --discard=BOOL              Discard the ranges of new partitions (default: yes)
     --factory-reset=BOOL        Delete and re-create what is marked FactoryReset=yes
     --can-factory-reset         Exit 0 if something marked exists, else 1

     --definitions=DIR           Read definitions from here (repeatable)
     --root=PATH                 Read definitions, machine ID, os-release and sources below PATH
     --image=FILE                Work on this image, and copy blocks from it; needs --definitions=
  -s --copy-source=PATH          Look for CopyFiles= sources below PATH
     --seed=UUID|random          Key of the derived UUIDs (default: the machine ID)
     --include-partitions=TYPES  Only these types
     --exclude-partitions=TYPES  All but these types
     --defer-partitions=TYPES    Keep space for these types, but do not make them
     --sector-size=BYTES         Sector size of an image file
     --grain-size=BYTES          Alignment (default: 4096)
     --architecture=ARCH         Architecture of all partition types
     --offline=yes|no|auto       Accepted; loop devices and device-mapper are never used

     --key-file=FILE             Key of Encrypt=key-file, a file or AF_UNIX socket
     --tpm2-device=auto|PATH     TPM of Encrypt=tpm2
     --tpm2-pcrs=PCR+PCR...      Seal to the present values of these PCRs
     --tpm2-public-key=FILE      Seal to what this key signs for
     --tpm2-public-key-pcrs=PCRS Which PCRs the key signs for (default: 11)

     --json=pretty|short|off     Print the plan as JSON
     --pretty=BOOL               Print the plan as a table and a bar
     --no-legend                 No table header
     --no-pager                  Accepted; there is no pager
     --rules=systemd|own         Behave exactly as systemd-repart 262 (default), or
                                 as the initrd agent does (README.md, deviations)

Exit status: 0 done or nothing to do, 1 failed, 76 no disk, 77 table missing or unsuitable.
";
