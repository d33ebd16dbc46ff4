"""Folders of synthetic runs and sweeps, written without training."""

import json

import yaml

CONFIG = {
    "data": {"_target_": "fedlit.data.digits", "root": "here", "val_fraction": 0.1},
    "partition": {"_target_": "fedlit.data.Dirichlet", "alpha": 0.1},
    "model": {"_target_": "fedlit.models.Classifier"},
    "algorithm": {"_target_": "fedlit.algorithms.FedAvg", "proximal": 0.0},
    "executor": {"_target_": "fedlit.executors.Auto", "workers": "auto", "threads": 1},
    "clock": {},
    "faults": {"on_error": "drop", "plans": {}, "server": None},
    "observers": {},
    "schedule": {"rounds": 3},
    "monitor": {"name": "val/accuracy", "mode": "max"},
    "seed": 1,
    "resume": None,
}


def write_run(
    folder,
    tests=(0.5, 0.7, 0.6),
    vals=None,
    choices=None,
    rounds=None,
    summary=None,
    unfinished=False,
    direction=None,
    **keys,
):
    """Write the folder of a run with these test accuracies.

    `keys` are configuration keys with two underscores instead of a dot. With `choices`, `direction` is that of a search whose
    trial the run is.
    """
    config = json.loads(json.dumps(CONFIG))
    for key, value in keys.items():
        *above, last = key.replace("__", ".").split(".")
        node = config
        for name in above:
            node = node[name]
        node[last] = value
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    if choices is not None:
        (folder / ".hydra").mkdir()
        content = {"hydra": {"runtime": {"choices": {"model": "simple_cnn", "debug": None, **choices}}}}
        content["hydra"]["sweeper"] = {"direction": direction}
        (folder / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump(content))
    monitor = (config["monitor"] or {}).get("name", "val/accuracy")
    prefix, name = monitor[:3], monitor[3:]
    vals = tests if vals is None else vals
    records = [
        {
            "round": i + 1,
            "cohort": [0, i],
            **({} if test is None else {f"{prefix}{name}": vals[i], f"test{name}": test}),
            "comm/up_bytes": 1000,
            "comm/down_bytes": 2000,
            "time/round_s": 0.5,
            "lost": None,
            "failures": [],
            "state_sha256": f"{config['seed']} {i} {test}",
            **((rounds or {}).get(i + 1, {})),
        }
        for i, test in enumerate(tests)
    ]
    (folder / "rounds.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    if unfinished:
        return folder
    best = max(range(len(tests)), key=lambda i: -1 if tests[i] is None else vals[i])
    other_keys = {"round", "cohort", "lost", "failures", "state_sha256"}
    metrics = [{k: v for k, v in record.items() if k not in other_keys} for record in records]
    content = {
        "rounds": len(records),
        "monitor": monitor,
        "best": {"round": best + 1, "metrics": metrics[best]},
        "last": {"round": len(records), "metrics": metrics[-1]},
        "seconds": 9.0,
        **(summary or {}),
    }
    (folder / "summary.json").write_text(json.dumps(content))
    return folder


def write_sweep(folder, gains=((0.00, 0.02, 0.05), (0.01, 0.04, 0.05)), alphas=(0.1, 1.0)):
    """Write runs of FedAvg and FedProx with seeds 1 to 3, for each alpha."""
    for alpha in alphas:
        for name, row in zip(("fedavg", "fedprox"), gains, strict=True):
            for seed, gain in enumerate(row, 1):
                keys = {"partition__alpha": alpha, "algorithm__proximal": 0.01 * (name == "fedprox"), "seed": seed}
                tests = [0.5, 0.7 + gain, 0.6 + gain / 2]
                write_run(folder / f"{name}-{alpha}-{seed}", tests, choices={"algorithm": name}, **keys)
    return folder
