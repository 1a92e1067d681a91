//! A virtual machine: at rest ([`Machine`]: disks, firmware variables, TPM state) and switched on ([`Running`]).
//!
//! Invariants: QEMU and swtpm never outlive the value that started them, nor its thread; what a machine keeps over a
//! boot lies in its own directory, so that machines can run side by side. Success and failure are never judged by
//! QEMU's exit status: it is 0 after a panic with `-no-reboot` too.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::console::{Console, Echo, Seen};
use crate::contract::{self, Stage};
use crate::disk::{Disk, escaped};
use crate::error::{Error, Result, file, no_dir, no_file};
use crate::firmware::{self, Firmware};
use crate::tpm::{self, Swtpm, TpmModel};
use crate::{Bus, qmp};

/// What the machine starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Boot {
    /// UEFI firmware, which looks for an ESP on the disks in their order.
    Disk,
    /// UEFI firmware with this UKI handed over by the hypervisor: measured like any other, but from no ESP.
    Uki(PathBuf),
    /// No UEFI: the kernel at once. The quickest way, with an untouched TPM and no EFI variables.
    Kernel {
        /// The kernel.
        kernel: PathBuf,
        /// The initrd.
        initrd: PathBuf,
        /// The command line.
        cmdline: String,
    },
}

/// What the guest's clock counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// Wall time of the host.
    Wall,
    /// Guest instructions, one a nanosecond: times repeat, however busy the host is.
    Instructions,
}

/// A machine that is switched off.
#[derive(Debug)]
pub struct Machine {
    dir: PathBuf,
    boot: Boot,
    memory_mib: u32,
    cpus: u32,
    disks: Vec<Disk>,
    tpm: Option<TpmModel>,
    clock: Clock,
    live: bool,
    boots: u32,
}

impl Machine {
    /// A factory-fresh machine that keeps everything in `dir`, which is emptied.
    pub fn fresh(dir: &Path, boot: Boot) -> Result<Self> {
        no_dir(dir)?;
        Self::existing(dir, boot)
    }

    /// The machine that an earlier run left in `dir`, with its firmware variables and TPM; disks are plugged in anew.
    pub fn existing(dir: &Path, boot: Boot) -> Result<Self> {
        fs::create_dir_all(dir).map_err(file("create", dir))?;
        let dir = fs::canonicalize(dir).map_err(file("find", dir))?;
        let defaults = (1024, 1, Vec::new(), Some(TpmModel::Crb), Clock::Wall);
        let (memory_mib, cpus, disks, tpm, clock) = defaults;
        Ok(Self {
            dir,
            boot,
            memory_mib,
            cpus,
            disks,
            tpm,
            clock,
            live: false,
            boots: 0,
        })
    }

    /// Plugs in a disk, after those that are there.
    #[must_use]
    pub fn disk(mut self, disk: Disk) -> Self {
        self.disks.push(disk);
        self
    }

    /// Memory in MiB (1024 unless told).
    #[must_use]
    pub fn memory(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// Number of virtual CPUs (one unless told).
    #[must_use]
    pub fn cpus(mut self, count: u32) -> Self {
        self.cpus = count;
        self
    }

    /// Which TPM (CRB unless told), or none.
    #[must_use]
    pub fn tpm(mut self, model: Option<TpmModel>) -> Self {
        self.tpm = model;
        self
    }

    /// What the guest's clock counts. Instructions are counted on one CPU only.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Whether the console is copied to our standard output while it runs.
    #[must_use]
    pub fn live(mut self, live: bool) -> Self {
        self.live = live;
        self
    }

    /// What the next boot starts.
    pub fn set_boot(&mut self, boot: Boot) {
        self.boot = boot;
    }

    /// The disks, in their order.
    #[must_use]
    pub fn disks(&self) -> &[Disk] {
        &self.disks
    }

    /// The machine's directory: logs, firmware variables, TPM state.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Solders in another TPM of the same model: all sealed secrets and counters are gone.
    pub fn replace_tpm(&mut self) -> Result<()> {
        no_dir(&self.tpm_state())
    }

    /// Leaves the TPM with a password that an earlier owner set.
    pub fn own_tpm(&mut self) -> Result<()> {
        tpm::set_owner_password(&self.tpm_state())
    }

    /// Switches the machine on. The value must be dropped by the thread that made it (see [`tied`]).
    pub fn power_on(&mut self) -> Result<Running> {
        let (mut command, swtpm) = self.prepare()?;
        let name = |what: &str| self.dir.join(format!("{what}-{}.log", self.boots));
        let (console_log, complaints) = (name("console"), name("qemu"));
        let stderr = File::create(&complaints).map_err(file("create", &complaints))?;
        command.args(["-chardev", "stdio,id=console,signal=off"]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr);
        let mut qemu = command.spawn().map_err(|source| Error::Start {
            program: QEMU.into(),
            source,
        })?;
        let guest = qemu
            .stdout
            .take()
            .ok_or_else(|| Error::Unexpected("QEMU has no output".into()))?;
        let echo = self.live.then(|| Box::new(std::io::stdout()) as Echo);
        let console = Console::start(guest, &console_log, echo)?;
        Ok(Running {
            qemu: Qemu(qemu),
            console,
            complaints,
            swtpm,
        })
    }

    /// Runs the machine on our own terminal until it is switched off (`Ctrl-A X` ends it at once).
    pub fn interactive(&mut self) -> Result<()> {
        let (mut command, _swtpm) = self.prepare()?;
        let log = self.dir.join(format!("console-{}.log", self.boots));
        let chardev = format!(
            "stdio,id=console,mux=on,signal=off,logfile={}",
            escaped(&log)
        );
        command.args([
            "-chardev",
            &chardev,
            "-mon",
            "chardev=console,mode=readline",
        ]);
        command.status().map(drop).map_err(|source| Error::Start {
            program: QEMU.into(),
            source,
        })
    }

    /// All of a boot but the console: swtpm runs, firmware variables exist.
    fn prepare(&mut self) -> Result<(Command, Option<Swtpm>)> {
        self.boots += 1;
        no_file(&self.dir.join(qmp::SOCKET))?;
        let swtpm = match self.tpm {
            None => None,
            Some(_) => {
                tpm::manufacture(&self.tpm_state())?;
                Some(Swtpm::start(&self.dir, &self.tpm_state())?)
            }
        };
        let firmware = match self.boot {
            Boot::Kernel { .. } => None,
            Boot::Disk | Boot::Uki(_) => Some(self.firmware()?),
        };
        let mut command = tied(QEMU)?;
        command
            .args(self.arguments(firmware.as_ref()))
            .current_dir(&self.dir);
        Ok((command, swtpm))
    }

    fn tpm_state(&self) -> PathBuf {
        self.dir.join("tpm")
    }

    /// The firmware with this machine's own variables.
    fn firmware(&self) -> Result<Firmware> {
        let found = firmware::find()?;
        let vars = self.dir.join("OVMF_VARS.fd");
        if !vars.exists() {
            fs::copy(&found.vars, &vars).map_err(file("create", &vars))?;
        }
        Ok(Firmware {
            code: found.code,
            vars,
        })
    }

    /// QEMU's arguments, all but the console.
    fn arguments(&self, firmware: Option<&Firmware>) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        let mut add = |name: &str, value: String| all.extend([format!("-{name}"), value]);
        add("machine", "q35".into());
        // Not cx16: QEMU 7.2 emulates cmpxchg16b so that guest kernels crash at random.
        add("cpu", "max,-cx16".into());
        match self.clock {
            Clock::Wall => add("accel", "tcg,thread=multi".into()),
            Clock::Instructions => {
                add("accel", "tcg,thread=single".into());
                add("icount", "shift=0,sleep=on".into());
            }
        }
        add("m", self.memory_mib.to_string());
        add("smp", self.cpus.to_string());
        add("serial", "chardev:console".into());
        add("qmp", format!("unix:{},server=on,wait=off", qmp::SOCKET));
        add("object", "rng-random,id=rng,filename=/dev/urandom".into());
        add("device", "virtio-rng-pci,rng=rng".into());
        if let Some(Firmware { code, vars }) = firmware {
            add(
                "drive",
                format!(
                    "if=pflash,unit=0,format=raw,readonly=on,file={}",
                    escaped(code)
                ),
            );
            add(
                "drive",
                format!("if=pflash,unit=1,format=raw,file={}", escaped(vars)),
            );
        }
        match &self.boot {
            Boot::Disk => {}
            Boot::Uki(uki) => add("kernel", uki.display().to_string()),
            Boot::Kernel {
                kernel,
                initrd,
                cmdline,
            } => {
                add("kernel", kernel.display().to_string());
                add("initrd", initrd.display().to_string());
                add("append", cmdline.clone());
            }
        }
        if let Some(model) = self.tpm {
            add("chardev", format!("socket,id=tpm,path={}", tpm::SOCKET));
            add("tpmdev", "emulator,id=tpm0,chardev=tpm".into());
            add("device", format!("{},tpmdev=tpm0", model.device()));
        }
        if self.disks.iter().any(|disk| disk.bus == Bus::Usb) {
            add("device", "qemu-xhci,id=usb".into());
        }
        all.extend(
            [
                "-nodefaults",
                "-display",
                "none",
                "-vga",
                "none",
                "-nic",
                "none",
                "-no-reboot",
            ]
            .map(String::from),
        );
        all.extend(
            self.disks
                .iter()
                .enumerate()
                .flat_map(|(number, disk)| disk.arguments(number)),
        );
        all
    }
}

const QEMU: &str = "qemu-system-x86_64";

/// A command that the kernel kills when the thread that started it ends, so that a test run that dies leaves no
/// machine behind that eats a core.
pub(crate) fn tied(program: &str) -> Result<Command> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|dir| dir.join(program).exists()) {
        let source = std::io::ErrorKind::NotFound.into();
        return Err(Error::Start {
            program: program.into(),
            source,
        });
    }
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", program]);
    Ok(command)
}

/// The process, killed on drop.
struct Qemu(Child);

impl Drop for Qemu {
    fn drop(&mut self) {
        // Both fail only for what is already gone.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A machine that is switched on. Dropping it cuts the power.
pub struct Running {
    // In this order: QEMU goes first, swtpm then has nobody left to serve.
    qemu: Qemu,
    console: Console,
    complaints: PathBuf,
    swtpm: Option<Swtpm>,
}

impl Running {
    /// Waits until one of `markers` is on the console; see [`Console::wait_for`].
    pub fn wait_for(&mut self, markers: &[&str], deadline: Duration) -> Result<Seen> {
        self.console
            .wait_for(markers, deadline)
            .map_err(|error| self.explained(error))
    }

    /// Waits until the machine switches itself off or resets.
    pub fn wait_off(mut self, deadline: Duration) -> Result<Off> {
        if !self.console.wait_end(deadline) {
            let (tail, log) = (self.console.tail(), self.console.log().to_path_buf());
            return Err(Error::StillOn {
                deadline,
                tail,
                log,
            });
        }
        Ok(self.power_cut())
    }

    /// Takes the power away at once. What the guest wrote to its disk is kept, what it has in memory is lost.
    pub fn power_cut(self) -> Off {
        let Self {
            qemu,
            mut console,
            swtpm,
            ..
        } = self;
        drop(qemu);
        console.finish();
        drop(swtpm);
        Off {
            lines: console.lines(),
            log: console.log().to_path_buf(),
        }
    }

    /// Presses the power button, which an operating system answers with an orderly shutdown.
    pub fn press_power_button(&self) -> Result<()> {
        qmp::execute(self.qemu.0.id(), "system_powerdown").map(drop)
    }

    /// Types on the console.
    pub fn type_text(&mut self, text: &str) -> Result<()> {
        use std::io::Write;
        let Some(keyboard) = &mut self.qemu.0.stdin else {
            return Err(Error::Unexpected("the console has no keyboard".into()));
        };
        let typed = keyboard
            .write_all(text.as_bytes())
            .and_then(|()| keyboard.flush());
        typed.map_err(|source| Error::Control {
            what: "type",
            source,
        })
    }

    /// All console lines so far.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.console.lines()
    }

    /// A machine that never started has nothing on its console; QEMU's own complaint is then the news.
    fn explained(&self, error: Error) -> Error {
        match error {
            Error::Stopped {
                markers,
                mut tail,
                log,
            } => {
                let said = fs::read_to_string(&self.complaints).unwrap_or_default();
                tail.extend(said.lines().map(|line| format!("  QEMU: {line}\n")));
                Error::Stopped { markers, tail, log }
            }
            other => other,
        }
    }
}

/// What is left of a boot.
#[derive(Debug)]
pub struct Off {
    /// All console lines.
    pub lines: Vec<String>,
    /// The console log.
    pub log: PathBuf,
}

impl Off {
    /// Stages that the agent reported.
    #[must_use]
    pub fn stages(&self) -> Vec<Stage> {
        contract::stages(&self.lines)
    }

    /// Whether any line contains `text`.
    #[must_use]
    pub fn says(&self, text: &str) -> bool {
        self.lines.iter().any(|line| line.contains(text))
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
