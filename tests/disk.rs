//! A disk that is full and a folder that cannot be written: one clear sentence, and what is finished stays as it is.

#![cfg(unix)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Sandbox, block, program};
use crate::runs::{assert_same_run, play, reproducible, sandbox};

/// What a shell says that runs `script`, in which `topspin` is the program, in the sandbox.
fn shell(sandbox: &Sandbox, script: &str) -> String {
    let mut command = assert_cmd::Command::new("sh");
    command.current_dir(sandbox.path("")).args(["-c", &script.replace("topspin", &program().display().to_string())]);
    block(&mut command)
}

/// The sentence of a failed command.
fn sentence(said: &str) -> &str {
    assert!(said.starts_with("exit code: 2\n"), "{said}");
    said.lines().find_map(|line| line.strip_prefix("error: ")).unwrap_or_else(|| panic!("{said}"))
}

/// Whether the artefacts of an earlier state are there as they were. The manifest may tell of more since, and what a
/// stage was writing when it failed is its own.
fn assert_intact(before: &[(String, Vec<u8>)], dir: &Path) {
    let after = reproducible(dir);
    let is_artefact = |name: &str| name != "manifest.json" && name != "best" && !name.contains(".partial.");
    for file in before.iter().filter(|(name, _)| is_artefact(name)) {
        assert!(after.contains(file), "{}", file.0);
    }
}

#[test]
fn a_file_that_may_not_grow_costs_only_its_stage() {
    let sandbox = sandbox();
    play(&sandbox, "whole");
    let out = sandbox.path("out");
    assert!(sandbox.run("sft run.toml --set output.dir=out").starts_with("exit code: 0"));
    let before = reproducible(&out);
    // A model has 60 kB, the lines of samples have less: 100 blocks of 512 bytes leave room for them alone. With the
    // signal ignored the write fails as it does on a full disk.
    let limited = "trap '' XFSZ; ulimit -f 100; exec topspin run run.toml --set output.dir=out";
    let said = shell(&sandbox, limited);
    let said = sentence(&said);
    assert!(said.starts_with("cannot write `out/iter-1/") && said.contains("File too large"), "{said}");
    assert_intact(&before, &out);
    play(&sandbox, "out");
    assert_same_run(&sandbox, "whole", "out");
}

/// A file system of a few hundred kilobytes, where the user may have one.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf, kilobytes: usize) -> Option<Self> {
        fs::create_dir(&at).unwrap();
        let size = format!("size={kilobytes}k");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "topspin-test"]).arg(&at).output();
        mount.is_ok_and(|output| output.status.success()).then_some(Self(at))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_costs_only_its_stage() {
    let sandbox = sandbox();
    let Some(_disk) = SmallDisk::mount(sandbox.path("disk"), 500) else {
        println!("no right to mount a small disk: the limit on a file's size stands for it alone");
        return;
    };
    play(&sandbox, "whole");
    let said = sandbox.run("run run.toml --set output.dir=disk/out");
    let said = sentence(&said);
    assert!(said.starts_with("cannot write `disk/out/"), "{said}");
    assert!(said.contains("no space is left on the device; free some"), "{said}");
    let before = reproducible(&sandbox.path("disk/out"));
    assert!(before.iter().any(|(name, _)| name == "iter-0/eval.json"), "the disk was full too early for this test");

    // Still full: the same again, and nothing that was finished is lost.
    assert_eq!(sentence(&sandbox.run("run run.toml --set output.dir=disk/out")), said);
    assert_intact(&before, &sandbox.path("disk/out"));
    let more = Command::new("mount").args(["-o", "remount,size=50m"]).arg(sandbox.path("disk")).status().unwrap();
    assert!(more.success());
    play(&sandbox, "disk/out");
    assert_same_run(&sandbox, "whole", "disk/out");
}

#[test]
fn a_folder_that_may_not_be_written_is_named() {
    let sandbox = sandbox();
    assert!(sandbox.run("sft run.toml --set output.dir=out").starts_with("exit code: 0"));
    let before = reproducible(&sandbox.path("out"));
    fs::create_dir(sandbox.path("closed")).unwrap();
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(&sandbox.path(""), 0o755);
    mode(&sandbox.path("closed"), 0o555);
    mode(&sandbox.path("out"), 0o555);
    mode(&sandbox.path("out/.lock"), 0o444);
    // Permissions do not bind the superuser: as somebody else, where that can be had.
    let root = fs::write(sandbox.path("closed/probe"), "").is_ok();
    let as_user = if root { "setpriv --reuid=65534 --regid=65534 --clear-groups " } else { "" };
    if root && !shell(&sandbox, &format!("{as_user}topspin --version")).starts_with("exit code: 0") {
        println!("no way to give up the superuser's rights: not tested");
        return;
    }
    for (dir, place) in [("closed/out", "create the folder `closed/out`"), ("out", "lock `out/.lock`")] {
        let said = shell(&sandbox, &format!("{as_user}topspin run run.toml --set output.dir={dir}"));
        let expected = format!(
            "cannot {place}: permission denied; give yourself the right to write in its folder, or choose another folder"
        );
        assert_eq!(sentence(&said), expected);
    }
    mode(&sandbox.path("out"), 0o755);
    assert_eq!(reproducible(&sandbox.path("out")), before);
}
