"""Every experiment builds, and its full-size update can be traced, without its dataset."""

import importlib.util

import jax
import pytest

from training import config as configs
from training import launch, parameters, smoke, study
from training.run import Run

FILES = {path.stem: path for path in launch.config_files()}
ARGUMENTS = {
    "vit_imagenet": ["B/16,token", "Ti/16"],
    "mixer_imagenet": ["S/32"],
    "resnet50_imagenet": ["18"],
    "resnet_cifar10": ["164"],
    "finetune_cifar10": ["1,scratch"],
    "linear_probe_cifar10": ["random"],
    "greedy_digits": ["2", "finetune"],
    "mlp_digits": ["perceptron"],
    "gpt_shakespeare": ["full"],
    "rnn_multi30k": ["none"],
    "bert_sst2": ["scratch"],
}
LARGE = {
    "alexnet_imagenet": ["OneStream"],
    "zfnet_imagenet": ["Wide"],
    "vgg_imagenet": ["11", "16BatchNorm"],
    "googlenet_imagenet": ["torchvision"],
    "inception_v3_imagenet": ["2"],
    "inception_resnet_imagenet": ["1"],
    "nasnet_imagenet": ["Large"],
    "plainnet_cifar10": ["56"],
    "resnet_cifar10": ["8,56"],
    "vit_hybrid_imagenet": ["R26+S/32"],
    "vit_imagenet": ["L/16", "H/14"],
    "resnet50_imagenet": ["152"],
    "mae_vit_imagenet": ["L/16,1600", "H/14"],
    "linear_probe_imagenet": ["L/16"],
    "finetune_imagenet": ["L/16", "H/14"],
    "gpt2_openwebtext": ["M", "XL"],
    "bert_wikipedia": ["L"],
    "transformer_wmt14": ["Big"],
}
# Of the rest of the zoo the default tests build the model; its update is traced by -m slow.
TRACED = ("vit_imagenet", "resnet50_imagenet", "mae_vit_imagenet")
HEAVY = [
    name
    for name in FILES
    if name.endswith("_imagenet") and name not in TRACED or name == "densenet_cifar10"
]
CASES = [
    *((name, None) for name in FILES if name not in HEAVY),
    *(pytest.param(name, None, marks=pytest.mark.slow) for name in HEAVY),
    *((name, argument) for name, found in ARGUMENTS.items() for argument in found),
    *(
        pytest.param(name, argument, marks=pytest.mark.slow)
        for name, found in LARGE.items()
        for argument in found
    ),
]


def load(name, argument=None):
    return configs.load(f"{FILES[name]}:{argument}" if argument else str(FILES[name]))


@pytest.mark.parametrize(("name", "argument"), CASES)
def test_the_full_size_update_can_be_traced(name, argument):
    run = Run.from_config(smoke.synthetic(load(name, argument)), jax.devices()[:1])
    state, metrics = jax.eval_shape(run.update, run.shapes, run.batch)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(
        lambda x: (x.shape, x.dtype), run.shapes
    )
    assert "loss" in metrics and run.experiment.evals
    kinds = {str(x.dtype) for x in jax.tree.leaves(run.shapes.params)}
    assert kinds == {"float32"}


@pytest.mark.parametrize("name", HEAVY)
def test_the_full_size_model_builds(name):
    run = Run.from_config(smoke.synthetic(load(name)), jax.devices()[:1])
    assert run.experiment.evals
    kinds = {str(x.dtype) for x in jax.tree.leaves(run.shapes.params)}
    assert kinds == {"float32"}


def test_vit_b16_has_the_published_number_of_parameters():
    run = Run.from_config(
        smoke.synthetic(load("vit_imagenet", "B/16,token")), jax.devices()[:1]
    )
    assert parameters.count(run.shapes.params) == 86_567_656


@pytest.mark.parametrize("name", FILES)
def test_the_docstring_says_what_how_and_how_well(name):
    description, result = launch.describe_config(FILES[name])
    assert 10 < len(description) <= 160
    text = FILES[name].read_text()
    assert f"--config=configs/{name}.py" in text, "the command is missing"
    assert "\nResult: " in text and result


@pytest.mark.parametrize("name", FILES)
def test_schedules_follow_the_length_of_the_run(name):
    """Overriding total_steps on the command line moves the schedule's end too."""
    spec = importlib.util.spec_from_file_location(name, FILES[name])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    config.total_steps = 123_456
    rule = config.optimizer.get("rule", config.optimizer)
    schedule = rule.learning_rate
    if "total_steps" in schedule:
        assert schedule.total_steps == 123_456


STUDIES = sorted((launch.ROOT / "configs" / "studies").glob("*.py"))
DATASETS = {
    "transfer": [
        None,
        "folder=nowhere,classes=7,size=48",
    ]
}


@pytest.mark.parametrize(
    ("path", "dataset"),
    [
        (path, dataset)
        for path in STUDIES
        for dataset in DATASETS.get(path.stem, [None])
    ],
    ids=lambda x: getattr(x, "stem", x),
)
def test_every_run_of_a_study_builds_on_its_dataset(path, dataset, tmp_path):
    plain = configs.load(f"{path}:{dataset}" if dataset else str(path))
    found = study.Study(**plain)
    assert f"--config=configs/studies/{path.name}" in path.read_text()
    seen = []
    for name in found.names:
        config = found.config(name, tmp_path)
        kind = (config["task"], config["data"], config.get("init_from") is None)
        if kind in seen:
            continue  # The same experiment from another start.
        seen.append(kind)
        run = Run.from_config(smoke.synthetic(config), jax.devices()[:1])
        if dataset:
            image = run.batch["image"].shape[1:]
            assert image == (48, 48, 3) if "size" in dataset else (32, 32, 3)
            sources = str([config["data"], config["evals"]])
            assert "cifar10" not in sources
    names = {
        column[1].format(row=row)
        for column in plain["table"]["columns"]
        for row in plain["table"]["rows"]
    }
    assert names <= set(found.names)
