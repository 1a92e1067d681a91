//! The command line of `cargo xtask`: raw words in, one typed request out.

use fixtures::{FileSystem, Flavour};

/// The text of `help`.
pub const HELP: &str = "\
Usage: cargo xtask TASK [OPTION]...

  boot      build, make the image, boot it twice in a virtual machine, show the console live, end with a summary
  test      everything: format, clippy, dependency arrows, unit tests, build, virtual machine scenarios
  build     static programs into target/dist
  image     build, then initrd, unified kernel image and disk into target/image
  lint      format, clippy, cargo-deny if installed
  setup     install the Debian packages all of this needs (done by the other tasks too)
  sysroot   the static C libraries only
  mkfs      the static mkfs programs only
  bench     figures of README: boot times under -icount, initrd sizes, memory
  bench repart
            planning alone, and one job side by side with systemd-repart
  peer-suite
            systemd's own test of systemd-repart against our binary

  --quick           programs built without LTO, initrd compressed less: for work on scenarios
  --generic         Debian's kernel for real machines, in place of the one for virtual ones (boot, image)
  --squashfs        /usr as squashfs in place of erofs (boot, image)
  --unsigned        no PCR signature in the unified kernel image (boot, image)
  --size GIB        size of the disk, 4 unless told (boot, image)
  --cmdline TEXT    more words for the kernel command line (boot, image)
  --keep            boot the machine that an earlier run left, once, in place of a fresh one (boot)
  --interactive     the machine's console on this terminal; Ctrl-A X ends it (boot)
  --no-vm           without the virtual machine scenarios (test)
  --only TEXT       nothing but the scenarios with TEXT in their name (test)";

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Print the help.
    Help,
    /// Install packages.
    Setup,
    /// C libraries.
    Sysroot,
    /// mkfs programs.
    Mkfs,
    /// All programs.
    Build,
    /// A bootable disk.
    Image,
    /// Boot it.
    Boot,
    /// Everything.
    Test,
    /// Format, clippy, licences.
    Lint,
    /// Measurements.
    Bench,
    /// systemd's test of systemd-repart.
    PeerSuite,
}

/// The whole request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The task.
    pub task: Task,
    /// `--quick`.
    pub quick: bool,
    /// Cloud unless `--generic`.
    pub flavour: Flavour,
    /// erofs unless `--squashfs`.
    pub file_system: FileSystem,
    /// `--unsigned`.
    pub unsigned: bool,
    /// `--size`, in GiB.
    pub size: u64,
    /// `--cmdline`.
    pub cmdline: String,
    /// `--keep`.
    pub keep: bool,
    /// `--interactive`.
    pub interactive: bool,
    /// `--no-vm`.
    pub no_vm: bool,
    /// `--only`; empty for all.
    pub only: String,
}

/// The smallest disk that the demonstration system's definitions fit on.
const SMALLEST: u64 = 3;

/// Reads the command line.
pub fn parse(args: &[String]) -> Result<Options, String> {
    let mut words = args.iter().map(String::as_str);
    let task = match words.next() {
        None | Some("help" | "--help" | "-h") => Task::Help,
        Some("setup") => Task::Setup,
        Some("sysroot") => Task::Sysroot,
        Some("mkfs") => Task::Mkfs,
        Some("build") => Task::Build,
        Some("image") => Task::Image,
        Some("boot") => Task::Boot,
        Some("test") => Task::Test,
        Some("lint") => Task::Lint,
        Some("bench") => Task::Bench,
        Some("peer-suite") => Task::PeerSuite,
        Some(other) => return Err(format!("no task `{other}`")),
    };
    let mut options = Options {
        task,
        quick: false,
        flavour: Flavour::Cloud,
        file_system: FileSystem::Erofs,
        unsigned: false,
        size: 4,
        cmdline: String::new(),
        keep: false,
        interactive: false,
        no_vm: false,
        only: String::new(),
    };
    while let Some(word) = words.next() {
        match word {
            "--quick" => options.quick = true,
            "--generic" => options.flavour = Flavour::Generic,
            "--squashfs" => options.file_system = FileSystem::Squashfs,
            "--unsigned" => options.unsigned = true,
            "--keep" => options.keep = true,
            "--interactive" => options.interactive = true,
            "--no-vm" => options.no_vm = true,
            "--only" => options.only = words.next().ok_or("`--only` needs a text")?.to_owned(),
            "--size" => options.size = size(words.next())?,
            "--cmdline" => {
                options.cmdline = words.next().ok_or("`--cmdline` needs a text")?.to_owned();
            }
            "repart" if task == Task::Bench => options.only = word.to_owned(),
            other => return Err(format!("no option `{other}`")),
        }
    }
    Ok(options)
}

fn size(word: Option<&str>) -> Result<u64, String> {
    match word.unwrap_or_default().parse() {
        Ok(size) if (SMALLEST..=1024).contains(&size) => Ok(size),
        _ => Err(format!(
            "`--size` needs a number of GiB, {SMALLEST} to 1024"
        )),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Options, String> {
        parse(&line.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_read() {
        let options = read("boot --generic --keep --size 8 --cmdline quiet").unwrap();
        assert_eq!(options.task, Task::Boot);
        assert_eq!(options.flavour, Flavour::Generic);
        assert!(options.keep && !options.interactive);
        assert_eq!((options.size, options.cmdline.as_str()), (8, "quiet"));
    }

    #[test]
    fn wrong_words_are_named() {
        for (line, word) in [
            ("frob", "frob"),
            ("boot --frob", "--frob"),
            ("boot --size 2", "--size"),
            ("boot --size x", "--size"),
            ("boot --cmdline", "--cmdline"),
        ] {
            assert!(read(line).unwrap_err().contains(word), "{line}");
        }
        assert_eq!(parse(&[]).unwrap().task, Task::Help);
    }
}
