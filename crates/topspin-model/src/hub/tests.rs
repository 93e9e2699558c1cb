use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;

use serde_json::Map;

use super::*;
use crate::adapter::{Adapter, LoraConfig, Targets, save_adapter};
use crate::checkpoint::{SaveDtype, save_folder};
use crate::config::DecoderConfig;
use crate::dialect::Dialect;
use crate::source::{ModelFiles, ModelSource};
use crate::testing::{random_parameters, small_config};
use crate::tokenizer::Tokenizer;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A stand-in for the Hub that serves one repository, the model `org/tiny` or the data set `org/set`, and notes what it is
/// asked.
struct Server {
    endpoint: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(files: HashMap<String, Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (files, log) = (Arc::new(files), asked.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (files, log) = (files.clone(), log.clone());
                std::thread::spawn(move || answer(stream.unwrap(), &files, &log));
            }
        });
        Self { endpoint, asked }
    }

    /// Requests since the last call.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

/// Answers one request and closes the connection.
fn answer(mut stream: TcpStream, files: &HashMap<String, Vec<u8>>, log: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut request = String::new();
    if reader.read_line(&mut request).unwrap_or(0) == 0 {
        return;
    }
    let mut line = String::new();
    while reader.read_line(&mut line).unwrap_or(0) > 2 {
        line.clear();
    }
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    log.lock().unwrap().push(format!("{method} {path}"));
    let file = ["/org/tiny/resolve/", "/datasets/org/set/resolve/", "/api/datasets/org/set/"];
    let file = file.iter().find_map(|prefix| path.strip_prefix(prefix));
    // The list of a data set's files is asked for by `tree/main`, its files by `main/path`.
    let (revision, name) = match file.and_then(|rest| rest.strip_prefix("tree/")) {
        Some(_) => (Some("main"), Some("tree")),
        None => file.and_then(|rest| rest.split_once('/')).unzip(),
    };
    let name = name.filter(|_| [Some("main"), Some(COMMIT)].contains(&revision));
    let (status, body) = match (name.and_then(|name| files.get(name)), path.starts_with("/org/gated/")) {
        (Some(body), _) => ("200 OK", body.as_slice()),
        (None, true) => ("403 Forbidden", &b""[..]),
        (None, false) => ("404 Not Found", &b""[..]),
    };
    let commit = name.map_or(String::new(), |_| format!("X-Repo-Commit: {COMMIT}\r\n"));
    let etag = name.unwrap_or_default();
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\n{commit}ETag: \"{etag}\"\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    let _ = stream.write_all(head.as_bytes());
    if method == "GET" {
        let _ = stream.write_all(body);
    }
}

/// The files of a small saved model.
fn model() -> (HashMap<String, Vec<u8>>, Vec<f32>) {
    let config = small_config(6);
    let parameters = random_parameters(config.layout().len(), 11);
    let dir = tempfile::tempdir().unwrap();
    let dialect = Dialect::new(Tokenizer::from_characters("abc"), None);
    save_folder(dir.path(), &config, &parameters, SaveDtype::F32, &dialect).unwrap();
    let files = fs::read_dir(dir.path()).unwrap().map(|entry| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
    });
    (files.collect(), parameters)
}

#[test]
fn fetches_once_then_works_from_the_cache() {
    let (files, parameters) = model();
    let server = Server::start(files);
    let cache = tempfile::tempdir().unwrap();
    let reports = Arc::new(Mutex::new(Vec::new()));
    let seen = reports.clone();
    let mut hub = Hub {
        endpoint: Some(server.endpoint.clone()),
        cache: Some(cache.path().into()),
        offline: false,
        progress: Some(Arc::new(move |file, done, all| seen.lock().unwrap().push((file.to_owned(), done, all)))),
    };
    let read = |hub: &Hub, spec: &str| {
        let source = ModelSource::resolve_with(spec, hub).unwrap();
        let mut read = vec![0.0; parameters.len()];
        ModelFiles::open(&source).unwrap().read_parameters(&mut read).unwrap();
        assert_eq!(read, parameters);
    };
    read(&hub, "hf:org/tiny");
    let weights = format!("GET /org/tiny/resolve/{COMMIT}/model.safetensors");
    assert_eq!(server.asked().iter().filter(|line| **line == weights).count(), 1);
    let size = reports
        .lock()
        .unwrap()
        .iter()
        .rfind(|(file, ..)| file == "model.safetensors")
        .map(|(_, done, all)| (*done, *all));
    assert!(matches!(size, Some((done, all)) if done == all && all > 0), "{size:?}");

    read(&hub, "hf:org/tiny");
    assert_eq!(server.asked(), ["HEAD /org/tiny/resolve/main/config.json"], "only whether the branch has moved");
    read(&hub, &format!("hf:org/tiny@{COMMIT}"));
    assert_eq!(server.asked(), [""; 0]);

    hub.offline = true;
    read(&hub, "hf:org/tiny@main");
    assert_eq!(server.asked(), [""; 0]);
    let error = hub.fetch("org/other").unwrap_err().to_string();
    let cache = cache.path().display();
    assert_eq!(
        error,
        format!(
            "cannot fetch `hf:org/other`: `config.json` is not in the cache `{cache}`, and `HF_HUB_OFFLINE` is \
             set; unset it to fetch the file"
        )
    );
}

#[test]
fn fetches_shards() {
    let (mut files, _) = model();
    let weights = files.remove("model.safetensors").unwrap();
    files.insert("model-1.safetensors".into(), weights);
    let layout = DecoderConfig::from_json(Path::new("c"), &serde_json::from_slice(&files["config.json"]).unwrap())
        .unwrap()
        .layout();
    let map: Map<_, _> =
        layout.entries().iter().map(|entry| (entry.name.clone(), Value::from("model-1.safetensors"))).collect();
    let index = serde_json::json!({ "weight_map": map });
    files.insert("model.safetensors.index.json".into(), index.to_string().into_bytes());
    let server = Server::start(files);
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub { endpoint: Some(server.endpoint.clone()), cache: Some(cache.path().into()), ..Hub::default() };
    ModelFiles::open(&ModelSource::resolve_with("hf:org/tiny", &hub).unwrap()).unwrap();
    // What the repository does not have is remembered too.
    server.asked();
    hub.fetch("org/tiny").unwrap();
    assert_eq!(server.asked(), ["HEAD /org/tiny/resolve/main/config.json"]);
}

#[test]
fn says_why_a_model_cannot_be_fetched() {
    let (mut files, _) = model();
    files.remove("model.safetensors");
    let server = Server::start(files);
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub { endpoint: Some(server.endpoint.clone()), cache: Some(cache.path().into()), ..Hub::default() };
    let error = |model: &str| hub.fetch(model).unwrap_err().to_string();
    let endpoint = &server.endpoint;
    assert_eq!(
        error("org/none"),
        format!(
            "cannot fetch `hf:org/none`: there is no such model at {endpoint}, or it has no `config.json`; check \
             the name and the revision"
        )
    );
    assert!(error("org/tiny").contains("it has no `model.safetensors` or `model.safetensors.index.json`"));
    assert!(
        error("org/gated").starts_with("cannot fetch `hf:org/gated`: access to it is restricted"),
        "{}",
        error("org/gated")
    );
}

#[test]
fn knows_the_spellings_of_true() {
    assert!(["1", "ON", "yes", "True"].into_iter().all(is_true));
    assert!(["", "0", "no", "off"].into_iter().all(|value| !is_true(value)));
}

/// The files of a data set, as the Hub lists and serves them.
fn data(paths: &[&str]) -> HashMap<String, Vec<u8>> {
    let entry = |path: &&str| serde_json::json!({"type": "file", "oid": "0", "size": path.len(), "path": path});
    let mut entries: Vec<_> = paths.iter().map(entry).collect();
    entries.push(serde_json::json!({"type": "directory", "oid": "0", "path": "data"}));
    let files = paths.iter().map(|path| (path.to_string(), path.as_bytes().to_vec()));
    files.chain([("tree".to_owned(), serde_json::to_vec(&entries).unwrap())]).collect()
}

#[test]
fn fetches_the_files_of_a_data_set_that_are_meant() {
    let paths =
        ["README.md", "data/train-1.jsonl.gz", "data/train-0.jsonl.gz", "data/test.csv", "train.md", "extra/a[1].csv"];
    let server = Server::start(data(&paths));
    let cache = tempfile::tempdir().unwrap();
    let mut hub = Hub { endpoint: Some(server.endpoint.clone()), cache: Some(cache.path().into()), ..Hub::default() };
    let fetch = |hub: &Hub, spec: &str| -> Vec<String> {
        // Each file holds its own path.
        hub.fetch_data(spec).unwrap().iter().map(|file| fs::read_to_string(file).unwrap()).collect()
    };
    let training = ["data/train-0.jsonl.gz", "data/train-1.jsonl.gz"];
    assert_eq!(fetch(&hub, "org/set"), training);
    assert_eq!(fetch(&hub, "org/set@main/data/*"), ["data/test.csv", "data/train-0.jsonl.gz", "data/train-1.jsonl.gz"]);
    assert_eq!(fetch(&hub, "org/set/data/test.csv"), ["data/test.csv"]);
    server.asked();
    fetch(&hub, "org/set");
    assert!(server.asked().iter().all(|line| !line.contains("GET /datasets")), "what is there is not fetched again");

    let error = |hub: &Hub, spec: &str| hub.fetch_data(spec).unwrap_err().to_string();
    assert!(error(&hub, "org/set/*.csv").contains("no file matches `*.csv`; there are `README.md`, `data/test.csv`"));
    assert!(error(&hub, "set").contains("a data set on the Hub is written `hf:org/name`"));
    assert!(error(&hub, "org/none").contains("there is no such data set at"));
    hub.offline = true;
    assert_eq!(fetch(&hub, "org/set"), training);
    assert!(error(&hub, "org/set/extra/*").contains("no file matches `extra/*`"));
}

#[test]
fn asks_which_files_of_a_data_set_are_meant() {
    for (paths, message) in [
        (&["a/train.csv", "b/train.csv"][..], "there are files to train on in several folders"),
        (&["a.csv", "training.csv", "train.md"], "no data file has `train` as a word in its path"),
    ] {
        let server = Server::start(data(paths));
        let cache = tempfile::tempdir().unwrap();
        let hub = Hub { endpoint: Some(server.endpoint), cache: Some(cache.path().into()), ..Hub::default() };
        let error = hub.fetch_data("org/set").unwrap_err().to_string();
        assert!(error.contains(message) && error.contains("`hf:org/name/PATTERN`"), "{error}");
    }
}

#[test]
fn an_adapter_is_fetched_with_its_model() {
    let (mut files, mut parameters) = model();
    // What stands for the Hub has one repository: the adapter's files, and its model in a folder here.
    let base = tempfile::tempdir().unwrap();
    files.drain().for_each(|(name, bytes)| fs::write(base.path().join(name), bytes).unwrap());
    let config = small_config(6);
    let adapter = Adapter::new(LoraConfig::new(2, 3.0, Targets::AllLinear), &config).unwrap();
    let trained = random_parameters(adapter.layout().len(), 5);
    let dir = tempfile::tempdir().unwrap();
    save_adapter(dir.path(), &adapter, &trained, base.path().to_str().unwrap()).unwrap();
    let names = ["adapter_config.json", "adapter_model.safetensors"];
    let server = Server::start(names.map(|name| (name.into(), fs::read(dir.path().join(name)).unwrap())).into());
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub {
        endpoint: Some(server.endpoint.clone()),
        cache: Some(cache.path().into()),
        offline: false,
        progress: None,
    };
    let source = ModelSource::resolve_with("hf:org/tiny", &hub).unwrap();
    let mut read = vec![0.0; parameters.len()];
    ModelFiles::open(&source).unwrap().read_parameters(&mut read).unwrap();
    adapter.merge_into(&trained, &config, &mut parameters);
    assert_eq!(read, parameters);
    // From the cache.
    assert_eq!(ModelSource::resolve_with("hf:org/tiny", &Hub { offline: true, ..hub }).unwrap(), source);
}
