//! `topspin inspect`.

use crate::harness::{Sandbox, pairs};

#[test]
fn says_what_a_path_is() {
    let sandbox = Sandbox::with_model();
    sandbox.write_lines("data.jsonl", &pairs());
    sandbox.write("game.toml", "[data]\ntrain = \"data.jsonl\"\n[game]\nbeta = [0.5, 1]\niterations = 2\n");
    insta::assert_snapshot!(sandbox.run("inspect model"), @"
    exit code: 0
    --- stdout
    kind                   model
    path                   model
    architecture           llama
    parameters             21856
    stored types           F32 21856
    vocab size             99
    hidden size            32
    intermediate size      48
    num layers             2
    num heads              4
    num kv heads           2
    head dim               8
    max positions          64
    tie word embeddings    false
    chat template          true
    end of turn            <end>
    stop tokens            <end>
    --- stderr
    ");
    insta::assert_snapshot!(sandbox.run("inspect model --json"), @r#"
    exit code: 0
    --- stdout
    {"kind":"model","path":"model","architecture":"llama","parameters":21856,"stored_types":{"F32":21856},"vocab_size":99,"hidden_size":32,"intermediate_size":48,"num_layers":2,"num_heads":4,"num_kv_heads":2,"head_dim":8,"max_positions":64,"tie_word_embeddings":false,"chat_template":true,"end_of_turn":"<end>","stop_tokens":["<end>"]}
    --- stderr
    "#);
    insta::assert_snapshot!(sandbox.run("inspect data.jsonl"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `data.jsonl` is neither a model nor a configuration; `topspin data inspect data.jsonl` shows it as data
    ");
    insta::assert_snapshot!(sandbox.run("inspect game.toml"), @r#"
    exit code: 0
    --- stdout
    kind                   configuration
    path                   game.toml
    still to be set        model.path
    other than default     data.train data.jsonl, game.beta 0.5, 1.0, game.iterations 2, output.dir runs/game

    [model]
    path = ""
    weights = "packed"

    [adapter]
    rank = 0
    alpha = 32.0
    rank_stabilized = false
    dropout = 0.0
    targets = "all-linear"
    merge = false

    [data]
    train = "data.jsonl"
    test = ""
    shape = "auto"
    max_unusable = 0.0
    test_share = 0.05
    prompts = 0
    fresh = true
    max_prompt_tokens = 0
    max_response_tokens = 0

    [data.columns]

    [sft]
    enabled = true
    prompts = 0
    turns = "last"
    epochs = 1
    lr = 0.00002
    optimizer = "adamw"
    batch = 16
    schedule = "linear"
    warmup = 0.1
    controls = []

    [game]
    iterations = 2
    opponent = "latest"
    history_decay = 1.0
    average_decay = 0.5
    mixture = 0.1
    beta = [0.5, 1.0]
    objective = "logistic"
    nll = 0.0
    dpop = 0.0
    label_smoothing = 0.0
    forward_kl = 0.0
    reverse_kl = 0.0
    samples = 1
    refresh = "never"
    seed = 0

    [rollout]
    temperature = 1.0
    top_k = 0
    top_p = 1.0
    max_new_tokens = 256
    live_sequences = 64
    rows_per_step = 512

    [score]
    kind = "none"
    use = "pairs"
    gap = 0.0
    pattern = ""
    target_tokens = 0
    command = []
    timeout = 600

    [train]
    optimizer = "rmsprop"
    lr = 0.000002
    schedule = "linear"
    warmup = 0.1
    epochs = 1
    batch_pairs = 16
    pairs_per_prompt = 4
    batch_tokens = 1024
    clip = 1.0
    weight_decay = 0.0
    beta1 = 0.9
    beta2 = 0.999
    decay = 0.99
    eps = 0.00000001
    recompute = false
    checkpoint_every = 20

    [guard]
    real_fall = 0.1
    accuracy = 0.98
    longer = 0.9
    cut = 0.2
    length = 1.75
    distinct = 0.5
    gradient = 1000.0

    [eval]
    prompts = 200
    greedy = true
    sampled = true
    max_new_tokens = 0
    metrics = ["exact_match"]
    scorer = []
    timeout = 600
    best = "nll.per_token"
    goal = "lowest"
    patience = 0

    [output]
    dir = "runs/game"
    precision = "auto"
    threads = 0
    save_dtype = "f32"
    tensorboard = true
    prometheus = ""
    --- stderr
    "#);
    std::fs::create_dir(sandbox.path("folder")).unwrap();
    insta::assert_snapshot!(sandbox.run("inspect folder"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `folder` is neither a run (it has no `manifest.json`) nor a model (it has no `config.json`)
    ");
    insta::assert_snapshot!(sandbox.run("inspect nowhere"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: cannot read `nowhere`: there is no such file or folder; check the path
    ");
}
