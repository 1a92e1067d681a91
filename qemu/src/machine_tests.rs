#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use super::*;

const SOON: Duration = Duration::from_secs(60);

fn kernel() -> Boot {
    Boot::Kernel {
        kernel: "/nonexistent/vmlinuz".into(),
        initrd: "/nonexistent/initrd".into(),
        cmdline: String::new(),
    }
}

#[test]
fn a_machine_that_cannot_start_says_why_in_qemus_words() {
    let dir = tempfile::tempdir().unwrap();
    let mut machine = Machine::fresh(&dir.path().join("machine"), kernel()).unwrap();
    let error = machine
        .power_on()
        .unwrap()
        .wait_for(&["marker"], SOON)
        .unwrap_err();
    assert!(
        matches!(&error, Error::Stopped { tail, .. } if tail.contains("/nonexistent/vmlinuz")),
        "{error}"
    );
}

#[test]
fn firmware_variables_and_tpm_are_the_machines_own_and_stay() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("machine");
    let mut machine = Machine::fresh(&path, Boot::Disk)
        .unwrap()
        .tpm(Some(TpmModel::Tis));
    drop(machine.power_on().unwrap());
    let state = path.join("tpm/tpm2-00.permall");
    let first = fs::read(&state).unwrap();
    assert_eq!(
        fs::metadata(path.join("OVMF_VARS.fd")).unwrap().len(),
        fs::metadata(firmware::find().unwrap().vars).unwrap().len()
    );
    machine.replace_tpm().unwrap();
    assert!(!state.exists());
    drop(machine.power_on().unwrap());
    let other = fs::read(&state).unwrap();
    assert_ne!(other, first, "the same TPM came back");
    machine.own_tpm().unwrap();
    assert_ne!(
        fs::read(&state).unwrap(),
        other,
        "the password is not in the TPM's state"
    );
    assert!(path.join("console-2.log").exists() && !path.join("tpm.sock").exists());
}

#[test]
fn a_running_machine_answers_its_power_button_and_can_be_told_from_one_that_is_off() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::blank(&dir.path().join("a,disk.raw"), 1 << 20).unwrap();
    let machine = Machine::fresh(&dir.path().join("machine"), Boot::Disk).unwrap();
    let running = machine.disk(disk.on(Bus::Nvme)).power_on().unwrap();
    running.press_power_button().unwrap();
    let error = running.wait_off(Duration::from_millis(300)).unwrap_err();
    assert!(matches!(error, Error::StillOn { .. }), "{error}");
}

#[test]
fn instructions_are_counted_on_one_cpu_thread() {
    let dir = tempfile::tempdir().unwrap();
    let machine = Machine::fresh(dir.path(), kernel())
        .unwrap()
        .clock(Clock::Instructions)
        .memory(256);
    let arguments = machine.arguments(None).join(" ");
    for wanted in [
        "-icount shift=0,sleep=on",
        "tcg,thread=single",
        "-cpu max,-cx16",
        "-m 256",
        "-no-reboot",
    ] {
        assert!(arguments.contains(wanted), "{wanted} is not in {arguments}");
    }
}
