"""Every experiment builds, and its full-size update can be traced, without its dataset."""

import importlib.util

import jax
import pytest

from training import artifacts, launch, parameters, smoke, study
from training import config as configs
from training.run import Run, batch_spec

FILES = {path.stem: path for path in launch.config_files()}
ARGUMENTS = {
    "alexnet_imagenet": ["OneStream"],
    "bert_sst2": ["scratch"],
    "bert_wikipedia": ["L"],
    "finetune_cifar10": ["1,scratch"],
    "finetune_imagenet": ["L/16", "H/14"],
    "googlenet_imagenet": ["torchvision"],
    "gpt2_openwebtext": ["M", "XL"],
    "gpt_shakespeare": ["full"],
    "greedy_digits": ["2", "finetune"],
    "inception_resnet_imagenet": ["1"],
    "inception_v3_imagenet": ["2"],
    "linear_probe_cifar10": ["random"],
    "linear_probe_imagenet": ["L/16"],
    "mae_vit_imagenet": ["L/16,1600", "H/14"],
    "mixer_imagenet": ["S/32"],
    "mlp_digits": ["perceptron"],
    "nasnet_imagenet": ["Large"],
    "plainnet_cifar10": ["56"],
    "resnet50_imagenet": ["18", "152"],
    "resnet_cifar10": ["164", "8,56"],
    "rnn_multi30k": ["none"],
    "transformer_wmt14": ["Big"],
    "vgg_imagenet": ["11", "16BatchNorm"],
    "vit_hybrid_imagenet": ["R26+S/32"],
    "vit_imagenet": ["B/16,token", "Ti/16", "L/16", "H/14"],
    "zfnet_imagenet": ["Wide"],
}
# The default tests trace one update of every task and of every kind of network; the updates of
# the others, which take a second or more each, are traced by -m slow.
TRACED = (
    "bert_wikitext2",
    "capsnet_digits",
    "colorization_cifar10",
    "denoising_digits",
    "gpt2_openwebtext",
    "jigsaw_cifar10",
    "lenet_digits",
    "lin_sst2",
    "linear_probe_digits",
    "mae_digits",
    "mixer_digits",
    "mlp_digits",
    "resnet_digits",
    "rnn_multi30k",
    "rotation_digits",
    "simclr_digits",
    "simmim_cifar10",
    "t5_wikitext2",
    "vit_digits",
    "vit_imagenet",
)
CASES = [
    *((name, None) for name in FILES),
    *((name, argument) for name, found in ARGUMENTS.items() for argument in found),
]


def load(name, argument=None):
    return configs.load(f"{FILES[name]}:{argument}" if argument else str(FILES[name]))


@pytest.mark.parametrize(("name", "argument"), CASES)
def test_everything_it_names_is_built(name, argument):
    """The task with its model, the optimizer, the evaluators and the first batch's spec."""
    config = smoke.synthetic(load(name, argument))
    experiment = configs.experiment(artifacts.materialize(config))
    assert experiment.evals
    assert batch_spec(experiment.data.element(), experiment.batch_size)


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        case
        if case[0] in TRACED and case[1] is None
        else pytest.param(*case, marks=pytest.mark.slow)
        for case in CASES
    ],
)
def test_the_full_size_update_can_be_traced(name, argument):
    run = Run.from_config(smoke.synthetic(load(name, argument)), jax.devices()[:1])
    state, metrics = jax.eval_shape(run.update, run.shapes, run.batch)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(
        lambda x: (x.shape, x.dtype), run.shapes
    )
    assert "loss" in metrics and run.experiment.evals
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
        config = smoke.synthetic(config)
        if not dataset:
            configs.experiment(artifacts.materialize(config))
        else:  # Of another size: the models too are asked.
            run = Run.from_config(config, jax.devices()[:1])
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
