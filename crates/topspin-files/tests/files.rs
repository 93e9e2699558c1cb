//! Errors name their path; a failed or interrupted write leaves the old content.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::process::Command;

use tempfile::tempdir;
use topspin_files::{Action, FileError, write_atomic, write_dir_atomic};

fn names(dir: &Path) -> Vec<String> {
    let mut all: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    all.sort();
    all
}

#[test]
fn errors_are_one_sentence_about_a_path() {
    let dir = tempdir().unwrap();
    let missing = dir.path().join("absent.jsonl");
    let shown = missing.display();
    assert_eq!(
        topspin_files::read(&missing).unwrap_err().to_string(),
        format!("cannot read `{shown}`: there is no such file or folder; check the path")
    );
    let inside = missing.join("x");
    assert_eq!(
        write_atomic(&inside, |_| Ok(())).unwrap_err().to_string(),
        format!(
            "cannot write `{}`: the folder that should hold it does not exist; create it, or check the path",
            inside.display()
        )
    );
    let error = topspin_files::open(dir.path()).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot read `{}`: it is a folder; name a file", dir.path().display()));
    assert_eq!((error.path(), error.kind()), (dir.path(), ErrorKind::IsADirectory));

    fs::write(&missing, [0xff, 0xfe]).unwrap();
    let text = topspin_files::read_to_string(&missing).unwrap_err().to_string();
    assert!(text.contains("not UTF-8"), "{text}");
    let text = topspin_files::create_dir_all(&missing.join("y")).unwrap_err().to_string();
    assert!(text.contains("is a file where a folder should be"), "{text}");
    let text = topspin_files::rename(&dir.path().join("a"), &dir.path().join("b")).unwrap_err().to_string();
    assert!(text.contains("/a` to `") && text.contains("/b`"), "{text}");
}

#[test]
fn common_kinds_say_what_would_mend_them() {
    for (kind, word) in [
        (ErrorKind::PermissionDenied, "give yourself the right"),
        (ErrorKind::ReadOnlyFilesystem, "another one"),
        (ErrorKind::StorageFull, "free some"),
        (ErrorKind::QuotaExceeded, "free some"),
        (ErrorKind::IsADirectory, "name a file"),
        (ErrorKind::AlreadyExists, "another name"),
    ] {
        let text = FileError::new(Action::Write, Path::new("a/b"), kind.into()).to_string();
        assert!(text.starts_with("cannot write `a/b`: ") && text.contains(word) && !text.ends_with('.'), "{text}");
    }
}

#[test]
fn a_file_is_replaced_whole() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("m.json");
    for text in ["first, and longer", "second"] {
        write_atomic(&path, |out| out.write_all(text.as_bytes())).unwrap();
        assert_eq!(topspin_files::read_to_string(&path).unwrap(), text);
    }
    let error = write_atomic(&path, |out| {
        out.write_all(b"half")?;
        Err(io::Error::from(ErrorKind::StorageFull))
    })
    .unwrap_err();
    assert!(error.to_string().contains("no space is left"), "{error}");
    assert_eq!(topspin_files::read_to_string(&path).unwrap(), "second");
    assert_eq!(names(dir.path()), ["m.json"]);
}

#[test]
fn leftovers_of_a_killed_process_are_replaced() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("m");
    let leftover = dir.path().join(".m.tmp");

    fs::write(&leftover, "longer than what follows").unwrap();
    write_atomic(&path, |out| out.write_all(b"new")).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");

    // Of the other kind, too: a folder where a file is to go.
    fs::create_dir_all(leftover.join("deep")).unwrap();
    write_atomic(&path, |out| out.write_all(b"newer")).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"newer");
    fs::remove_file(&path).unwrap();

    fs::create_dir_all(leftover.join("deep")).unwrap();
    fs::write(leftover.join("stale"), "x").unwrap();
    fs::create_dir(dir.path().join(".m.old")).unwrap();
    write_dir_atomic::<FileError>(&path, |d| write_atomic(&d.join("a"), |out| out.write_all(b"1"))).unwrap();
    assert_eq!(names(&path), ["a"]);
    assert_eq!(names(dir.path()), ["m"]);
}

#[test]
fn a_folder_is_replaced_whole_or_left() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("model");
    let fill = |names: &'static [&'static str]| {
        move |d: &Path| -> Result<(), FileError> {
            names.iter().try_for_each(|name| {
                topspin_files::create_dir_all(&d.join("sub"))?;
                write_atomic(&d.join("sub").join(name), |out| out.write_all(name.as_bytes()))
            })
        }
    };
    write_dir_atomic(&path, fill(&["a", "b"])).unwrap();
    write_dir_atomic(&path, fill(&["c"])).unwrap();
    assert_eq!(names(&path.join("sub")), ["c"]);

    let failed: Result<(), FileError> = write_dir_atomic(&path, |d| {
        fill(&["d"])(d)?;
        topspin_files::read(&d.join("absent")).map(drop)
    });
    assert!(failed.unwrap_err().to_string().starts_with("cannot read `"));
    assert_eq!(names(&path.join("sub")), ["c"]);
    assert_eq!(names(dir.path()), ["model"]);

    let file = dir.path().join("file");
    fs::write(&file, "mine").unwrap();
    let error = write_dir_atomic(&file, fill(&["a"])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!(fs::read(&file).unwrap(), b"mine");
}

/// A child process has all open files until it becomes its program; the lock must not wait for that.
#[test]
fn a_lock_ends_although_children_are_being_started() {
    let dir = tempdir().unwrap();
    let children =
        std::thread::spawn(|| (0..300).for_each(|_| assert!(Command::new("true").status().unwrap().success())));
    while !children.is_finished() {
        drop(topspin_files::lock(dir.path()).unwrap());
    }
    children.join().unwrap();
}

#[test]
fn a_folder_is_locked_once() {
    let dir = tempdir().unwrap();
    let held = topspin_files::lock(dir.path()).unwrap();
    let error = topspin_files::lock(dir.path()).unwrap_err();
    assert!(matches!(error, FileError::InUse { .. }));
    assert!(error.to_string().contains("is in use by another process"), "{error}");
    drop(held);
    let _again = topspin_files::lock(dir.path()).unwrap();
    assert_eq!(topspin_files::lock(&dir.path().join("absent")).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn appends_add_to_what_is_there() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("log");
    for line in ["a\n", "b\n"] {
        topspin_files::append(&path).unwrap().write_all(line.as_bytes()).unwrap();
    }
    assert_eq!(topspin_files::read(&path).unwrap(), b"a\nb\n");
}

#[cfg(unix)]
#[test]
fn a_link_is_replaced_and_a_device_is_not() {
    let dir = tempdir().unwrap();
    let link = dir.path().join("best");
    for target in ["iter-0", "iter-1"] {
        topspin_files::symlink_atomic(Path::new(target), &link).unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), Path::new(target));
    }
    assert_eq!(names(dir.path()), ["best"]);

    // Through a link, lest a failure of this test should cost the machine its /dev/null.
    let sink = dir.path().join("null");
    topspin_files::symlink_atomic(Path::new("/dev/null"), &sink).unwrap();
    write_atomic(&sink, |out| out.write_all(b"gone")).unwrap();
    assert_eq!(fs::read_link(&sink).unwrap(), Path::new("/dev/null"));

    let (file, to_file) = (dir.path().join("file"), dir.path().join("to-file"));
    fs::write(&file, "old").unwrap();
    topspin_files::symlink_atomic(Path::new("file"), &to_file).unwrap();
    write_atomic(&to_file, |out| out.write_all(b"new")).unwrap();
    assert_eq!((fs::read(&file).unwrap(), fs::read_link(&to_file).unwrap()), (b"new".to_vec(), "file".into()));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_device_is_said_to_be_full() {
    let dir = tempdir().unwrap();
    let full = dir.path().join("full");
    topspin_files::symlink_atomic(Path::new("/dev/full"), &full).unwrap();
    let error = write_atomic(&full, |out| out.write_all(b"anything")).unwrap_err();
    assert_eq!((error.kind(), error.path()), (ErrorKind::StorageFull, full.as_path()));
}
