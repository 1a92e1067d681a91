//! The little of QEMU's control protocol that we need: press the power button, ask for the state.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// Name of the control socket in the machine's directory.
pub(crate) const SOCKET: &str = "qmp.sock";
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs one command without arguments on the QEMU with this process id.
pub(crate) fn execute(pid: u32, command: &'static str) -> Result<serde_json::Value> {
    let failed = |what| move |source| Error::Control { what, source };
    let socket = connect(pid).map_err(failed("connect"))?;
    socket
        .set_read_timeout(Some(PATIENCE))
        .map_err(failed("set deadline"))?;
    let mut replies = BufReader::new(socket.try_clone().map_err(failed("clone"))?);
    let mut line = String::new();
    replies.read_line(&mut line).map_err(failed("greeting"))?;
    for name in ["qmp_capabilities", command] {
        (&socket)
            .write_all(format!("{{\"execute\":\"{name}\"}}\n").as_bytes())
            .map_err(failed("send"))?;
        line = reply(&mut replies).map_err(failed(command))?;
    }
    let answer: serde_json::Value = serde_json::from_str(&line).map_err(|_| Error::Answer {
        program: "QEMU".into(),
        answer: line.clone(),
    })?;
    match answer.get("return") {
        Some(value) => Ok(value.clone()),
        None => Err(Error::Answer {
            program: "QEMU".into(),
            answer: line,
        }),
    }
}

/// QEMU makes its socket a moment after it was started.
fn connect(pid: u32) -> std::io::Result<UnixStream> {
    // Through the process' working directory: a socket's path may not be longer than 107 bytes.
    let path = format!("/proc/{pid}/cwd/{SOCKET}");
    let until = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(&path) {
            Err(error) if early(&error) && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(20))
            }
            done => return done,
        }
    }
}

fn early(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound | ErrorKind::ConnectionRefused
    )
}

/// The next line that is not an event.
fn reply(replies: &mut impl BufRead) -> std::io::Result<String> {
    loop {
        let mut line = String::new();
        if replies.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if !line.contains("\"event\"") {
            return Ok(line);
        }
    }
}
