//! A run that is killed at random points, and started again each time, ends as one that was left in peace.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use topspin_kernels::rng::Rng;

use crate::harness::Sandbox;
use crate::runs::{assert_same_run, play, sandbox, start, wait_for_changes};

/// SIGKILLs in the test, at least.
const KILLS: usize = 24;
/// Starts of one run after which it should long have come to its end.
const STARTS: usize = 400;

#[test]
fn a_killed_run_ends_with_the_same_bytes() {
    kill_at_random(&sandbox());
}

#[test]
fn a_killed_run_whose_opponent_is_refreshed_ends_with_the_same_bytes() {
    let sandbox = sandbox();
    let config = sandbox.read("run.toml").replace("'latest_two'", "'history'\nrefresh = [4, 'epoch']");
    sandbox.write("run.toml", config.replace("checkpoint_every = 3", "checkpoint_every = 2\nepochs = [1, 2]"));
    kill_at_random(&sandbox);
    assert!(sandbox.path("whole/iter-1/round-5").exists() && sandbox.path("whole/iter-2/round-2").exists());
    let said = sandbox.run("inspect whole");
    // Five rounds and two, of three stages each, and those of the supervised model, its control and all evaluations.
    let lines = ["stages done            38", "stages                 38", "next stage             -", "\niter-2    "];
    assert!(lines.iter().all(|line| said.contains(line)), "{said}");
}

/// Kills runs of the sandbox's configuration and starts them again until they end.
fn kill_at_random(sandbox: &Sandbox) {
    play(sandbox, "whole");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = now.as_nanos() as u64;
    println!("seed {seed}");
    let mut rng = Rng::new(seed, "kills", 0);
    let (mut kills, mut runs) = (0, 0);
    while kills < KILLS {
        let out = format!("killed-{runs}");
        let ended = (0..STARTS).any(|_| {
            let mut child = start(sandbox, &out);
            // At a random change of the run's files and a little later, so that a kill hits before, within and after a
            // write, and every start gets a little further on the average.
            let changes = 1 + rng.below(40);
            let ended = wait_for_changes(&mut child, &sandbox.path(&out), changes);
            if !ended {
                std::thread::sleep(Duration::from_micros(rng.below(3000) as u64));
                child.kill().unwrap();
                kills += 1;
            }
            // One that ended by itself had no reason but that it was finished.
            let status = child.wait().unwrap();
            assert!(status.success() || !ended, "{status}");
            ended
        });
        assert!(ended, "the run did not end in {STARTS} starts");
        assert_same_run(sandbox, "whole", &out);
        runs += 1;
    }
    println!("{kills} kills in {runs} runs");
}
