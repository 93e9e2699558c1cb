//! `progress.json`.

use std::time::{Duration, Instant};

use super::*;

/// Waits for the file to say what is wanted, and stops the run there if told to.
struct Reader<'a> {
    dir: String,
    stage: String,
    seen: Vec<Progress>,
    stop: Option<&'a AtomicBool>,
}

impl Observer for Reader<'_> {
    fn begin(&mut self, stage: &str, _: &'static str, _: usize, _: usize) {
        self.stage = stage.into();
    }

    fn advance(&mut self, done: usize, note: &str) {
        if self.stage != "iter-1/train" || done != 2 || !self.seen.is_empty() {
            return;
        }
        let start = Instant::now();
        // This step itself is told behind the observer's back, when it returns.
        while start.elapsed() < Duration::from_secs(20) {
            let progress = Progress::read(Path::new(&self.dir));
            if let Some(progress) = progress.filter(|there| (&*there.stage, there.done) == ("iter-1/train", 1)) {
                assert!(note.starts_with("loss "), "{note}");
                self.seen.push(progress);
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Some(stop) = self.stop {
            stop.store(true, Ordering::Relaxed);
        }
    }

    fn end(&mut self) {}
    fn say(&mut self, _: &str) {}
    fn warn(&mut self, _: &str) {}
}

#[test]
fn a_run_says_what_it_is_at_until_it_ends() {
    let fixture = Fixture::new();
    let (dir, stop) = (fixture.path("out"), AtomicBool::new(false));
    let config = fixture.config("out", &["game.iterations=1"]);
    let reader = || Reader { dir: dir.clone(), stage: String::new(), seen: Vec::new(), stop: Some(&stop) };
    let mut first = reader();
    assert!(matches!(play(&config, &mut first, &stop), Err(RunError::Stopped { .. })));
    let seen = &first.seen[0];
    assert_eq!((&*seen.unit, seen.total, seen.done_before, seen.pid), ("steps", 6, 0, std::process::id()));
    assert!(seen.at_work && seen.note.starts_with("loss "), "{seen:?}");
    assert!(seen.run_began <= seen.began && seen.began <= seen.written, "{seen:?}");
    #[cfg(target_os = "linux")]
    assert!(seen.resident_bytes.unwrap() > 1 << 20);

    // One that was stopped says since when.
    let left = Progress::read(Path::new(&dir)).unwrap();
    assert_eq!((&*left.stage, left.done, left.at_work), ("iter-1/train", 2, false));
    assert!(left.written >= seen.written);

    // Nothing hangs on the file: whatever stands there is replaced, and gone in the end.
    fs::write(Path::new(&dir).join("progress.json"), "{").unwrap();
    assert_eq!(Progress::read(Path::new(&dir)), None);
    fs::write(Path::new(&dir).join(".progress.json.tmp"), "{").unwrap();
    stop.store(false, Ordering::Relaxed);
    play(&config, &mut Silent, &stop).unwrap();
    for name in ["progress.json", ".progress.json.tmp"] {
        assert!(!Path::new(&dir).join(name).exists(), "{name}");
    }
    // Also where a kill came between the last stage and the end.
    fs::write(Path::new(&dir).join("progress.json"), "{}").unwrap();
    play(&config, &mut Silent, &stop).unwrap();
    assert!(!Path::new(&dir).join("progress.json").exists());
}

#[test]
fn a_run_does_not_fail_for_it() {
    let fixture = Fixture::new();
    let config = fixture.config("out", &["game.iterations=1"]);
    let stop = AtomicBool::new(true);
    assert!(matches!(play(&config, &mut Silent, &stop), Err(RunError::Stopped { .. })));
    // A folder cannot be replaced by a file.
    fs::create_dir_all(Path::new(&fixture.path("out")).join("progress.json/x")).unwrap();
    fixture.play("out", &["game.iterations=1"]).unwrap();
}
