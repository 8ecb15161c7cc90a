"""Decoding against enumeration, statistics and the full forward pass."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nlp import decoding
from nlp.beam_search import beam_search, gather_rows, penalty
from nlp.decoding import GREEDY, Forced, Rules, Sampling, greedy, sample

EOS, SIZE = 2, 5
RNG = jax.random.key(0)

# A language small enough to enumerate: the next token depends on all before it, whose
# number in base SIZE is the state; node 0 is the empty sequence.
LENGTH = 4
NODES = sum(SIZE**n for n in range(LENGTH))
WIDEST = SIZE ** (LENGTH - 1)
RULES = Rules(max_length=LENGTH, eos_id=EOS)


def logit_table(seed):
    """float32 [NODES, SIZE]; logits after every sequence shorter than LENGTH."""
    values = np.random.default_rng(seed).normal(size=(NODES, SIZE)) * 1.5
    return values.astype(np.float32)


SEEDS = range(8)
TABLES = jnp.array([logit_table(seed) for seed in SEEDS])


def table_step(tokens, state):
    node = state["node"] * SIZE + 1 + tokens
    return state["table"][jnp.arange(len(node)), node], {**state, "node": node}


def parts(tables, nodes=None):
    """(step, logits, state) with a table for every row, at a node of each."""
    if nodes is None:
        nodes = jnp.zeros(len(tables), jnp.int32)
    logits = tables[jnp.arange(len(tables)), nodes]
    return table_step, logits, {"node": nodes, "table": tables}


@functools.partial(jax.jit, static_argnames=("rules", "beam_size", "num_sequences"))
def search(
    tables, alpha=0.0, nodes=None, forced=None, *, rules=RULES, beam_size, **options
):
    return beam_search(
        *parts(tables, nodes),
        rules,
        beam_size=beam_size,
        length_penalty=alpha,
        forced=forced,
        **options,
    )


@functools.partial(jax.jit, static_argnames=("rules", "sampling"))
def draw(tables, rng=None, nodes=None, forced=None, *, rules=RULES, sampling=GREEDY):
    return sample(*parts(tables, nodes), rules, sampling, rng=rng, forced=forced)


def node_of(tokens):
    return functools.reduce(lambda node, token: node * SIZE + 1 + token, tokens, 0)


def every_sequence(rules):
    """All that may be written: ended, or as long as may be."""
    for length in range(1, rules.max_length + 1):
        for tokens in itertools.product(range(SIZE), repeat=length):
            ended = tokens[-1] == rules.eos_id
            early = ended and length - 1 < rules.min_length
            wrong = rules.eos_id in tokens[:-1] or set(tokens) & set(rules.forbidden)
            if (ended or length == rules.max_length) and not (wrong or early):
                yield tokens


def best_by_enumeration(seed, rules, alpha, count):
    """The best (score, tokens), best first."""
    log_probs = np.asarray(jax.nn.log_softmax(TABLES[seed]), np.float64)
    scored = []
    for tokens in every_sequence(rules):
        total = sum(
            log_probs[node_of(tokens[:i]), token] for i, token in enumerate(tokens)
        )
        scored.append((total / ((5 + len(tokens)) / 6) ** alpha, tokens))
    return sorted(scored, reverse=True)[:count]


def assert_written(decoded, row, tokens, rules, place=()):
    """Row (and rank) of `decoded` is `tokens`, then padding."""
    at = (row, *place)
    padded = [*tokens, *[rules.pad_id] * (rules.max_length - len(tokens))]
    assert decoded.lengths[at] == len(tokens)
    np.testing.assert_array_equal(decoded.tokens[at], padded)


@pytest.mark.parametrize("num_sequences", [1, 3])
@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0, 3.0, -1.0])
def test_a_wide_beam_finds_the_exact_optimum(alpha, num_sequences):
    decoded = search(TABLES, alpha, beam_size=WIDEST, num_sequences=num_sequences)
    decoded = jax.device_get(decoded)
    for row in SEEDS:
        best = best_by_enumeration(row, RULES, alpha, num_sequences)
        for rank, (score, tokens) in enumerate(best):
            assert_written(decoded, row, tokens, RULES, (rank,))
            np.testing.assert_allclose(decoded.scores[row, rank], score, rtol=1e-5)


def test_the_cases_above_tempt_an_early_stop():
    """With the penalty, longer sequences win that an unsafe stop would miss."""
    overtaken = 0
    for row in SEEDS:
        plain = best_by_enumeration(row, RULES, 0.0, 1)[0][1]
        penalised = best_by_enumeration(row, RULES, 3.0, 1)[0][1]
        overtaken += len(penalised) > len(plain)
    assert overtaken >= 2


def test_the_search_waits_for_a_longer_sequence_that_wins_in_the_end():
    # After one step [eos] has log 0.5; the open [3] log 0.45. Over the penalties of their
    # present lengths the first leads, but [3, 3, 3, eos] is nearly certain from there.
    first = jnp.log(jnp.array([[0.05, 1e-9, 0.5, 0.45]]))

    def step(tokens, count):
        choice = jnp.where(count < 2, 3, EOS)
        logits = jnp.log(jnp.where(jnp.arange(4) == choice, 1.0, 1e-9))
        return jnp.broadcast_to(logits, (len(tokens), 4)), count + 1

    @jax.jit
    def run(alpha):
        return beam_search(
            step,
            first,
            jnp.int32(0),
            RULES,
            beam_size=2,
            num_sequences=1,
            length_penalty=alpha,
        )

    for alpha, best in ((0.0, [2]), (1.0, [3, 3, 3, 2])):
        assert_written(run(alpha), 0, best, RULES, (0,))


def counted(step):
    """A step, and a list that grows by one whenever it is computed."""
    calls = []

    def counting(tokens, state):
        jax.debug.callback(lambda: calls.append(1))
        return step(tokens, state)

    return counting, calls


def settled(decoded):
    jax.block_until_ready(decoded)
    jax.effects_barrier()
    return decoded


def test_the_search_stops_when_nothing_open_can_win():
    step, calls = counted(lambda tokens, state: (jnp.zeros((len(tokens), SIZE)), state))
    first = jnp.zeros((1, SIZE)).at[0, EOS].set(9.0)
    rules = Rules(max_length=100, eos_id=EOS)
    options = dict(beam_size=3, num_sequences=1, length_penalty=0.6)
    decoded = jax.jit(lambda: beam_search(step, first, (), rules, **options))()
    assert_written(settled(decoded), 0, [EOS], rules, (0,))
    assert not calls


@pytest.mark.parametrize("fields", [{}, dict(min_length=2, forbidden=(0, 1))])
def test_a_beam_of_one_is_greedy(fields):
    rules = Rules(max_length=LENGTH, eos_id=EOS, **fields)
    choice = draw(TABLES, rules=rules)
    assert len(set(choice.lengths.tolist())) > 1
    for alpha in (0.0, 1.0, 5.0):
        one = search(TABLES, alpha, rules=rules, beam_size=1)
        np.testing.assert_array_equal(one.tokens[:, 0], choice.tokens)
        np.testing.assert_array_equal(one.lengths[:, 0], choice.lengths)
        expected = choice.scores / penalty(choice.lengths, alpha)
        np.testing.assert_allclose(one.scores[:, 0], expected, rtol=1e-5)


def test_scores_are_sorted_and_the_widest_beam_is_best():
    best = []
    for size in (1, 3, WIDEST):
        decoded = search(TABLES, beam_size=size, num_sequences=min(size, 3))
        assert (np.diff(decoded.scores, axis=1) <= 0).all()
        best.append(np.asarray(decoded.scores[:, 0]))
        for tokens in np.asarray(decoded.tokens):
            assert len({tuple(t) for t in tokens}) == min(size, 3)
    assert all((best[-1] >= other - 1e-6).all() for other in best)
    assert (best[-1] > best[0] + 1e-3).any()


def test_rows_do_not_see_each_other():
    options = dict(beam_size=3, num_sequences=3)
    together = search(TABLES, 0.6, **options)
    for row in SEEDS:
        alone = search(TABLES[row : row + 1], 0.6, **options)
        np.testing.assert_array_equal(together.tokens[row], alone.tokens[0])
        np.testing.assert_allclose(together.scores[row], alone.scores[0], rtol=1e-6)


def test_forbidden_tokens_and_lengths_hold_for_all_results():
    rules = Rules(max_length=LENGTH, min_length=2, eos_id=EOS, forbidden=(0, 3))
    decoded = jax.device_get(search(TABLES, 0.5, rules=rules, beam_size=30))
    for row in SEEDS:
        expected = best_by_enumeration(row, rules, 0.5, 30)
        assert len(expected) == 28  # 2^2 that end at 3, and of length 4 2^3 times 3
        for rank, (score, tokens) in enumerate(expected):
            assert_written(decoded, row, tokens, rules, (rank,))
            np.testing.assert_allclose(decoded.scores[row, rank], score, rtol=1e-5)
        assert (decoded.lengths[row, 28:] == 0).all()
        assert (decoded.scores[row, 28:] == -np.inf).all()
        assert (decoded.tokens[row, 28:] == rules.pad_id).all()


def test_without_an_end_rows_are_full():
    rules = Rules(max_length=3, eos_id=None)
    assert (draw(TABLES, rules=rules).lengths == 3).all()
    assert (search(TABLES, rules=rules, beam_size=1).lengths == 3).all()


def test_an_ended_row_is_padded_while_others_go_on():
    first = jnp.zeros((2, SIZE)).at[0, EOS].set(9.0).at[1, 4].set(9.0)
    rules = Rules(max_length=6, eos_id=EOS, pad_id=1)

    def step(tokens, count):
        choice = jnp.where(count < 2, 3, EOS)
        return jnp.tile(9.0 * (jnp.arange(SIZE) == choice), (2, 1)), count + 1

    decoded = jax.jit(lambda: greedy(step, first, jnp.int32(0), rules))()
    np.testing.assert_array_equal(
        decoded.tokens, [[EOS, 1, 1, 1, 1, 1], [4, 3, 3, EOS, 1, 1]]
    )
    np.testing.assert_array_equal(decoded.lengths, [1, 4])


def test_greedy_steps_no_more_than_it_must():
    ending = jnp.zeros((1, SIZE)).at[0, EOS].set(9.0)
    first = jnp.zeros((1, SIZE)).at[0, 4].set(9.0)
    for length, steps in ((50, 1), (1, 0)):  # the last token is not read
        step, calls = counted(lambda tokens, state: (ending, state))
        rules = Rules(max_length=length, eos_id=EOS)
        decoded = settled(jax.jit(lambda: greedy(step, first, (), rules))())  # noqa: B023
        assert len(calls) == steps and decoded.lengths[0] == steps + 1


DISTRIBUTION = jnp.array([0.05, 0.4, 0.1, 0.3, 0.15])
ROWS = 20_000


def assert_frequencies(tokens, expected):
    """Counts of tokens [...] are within 4.5 standard deviations of what is expected."""
    tokens = np.asarray(tokens).ravel()
    found = np.bincount(tokens, minlength=SIZE) / len(tokens)
    assert (found[expected == 0] == 0).all()
    deviation = np.sqrt(expected * (1 - expected) / len(tokens))
    assert (np.abs(found - expected) <= 4.5 * deviation).all(), (found, expected)


@pytest.mark.parametrize(
    ("sampling", "kept", "power"),
    [
        (Sampling(), [0, 1, 2, 3, 4], 1.0),
        (Sampling(temperature=0.5), [0, 1, 2, 3, 4], 2.0),
        (Sampling(temperature=2.0), [0, 1, 2, 3, 4], 0.5),
        (Sampling(top_k=2), [1, 3], 1.0),
        (Sampling(top_k=99), [0, 1, 2, 3, 4], 1.0),
        (Sampling(top_p=0.69), [1, 3], 1.0),
        (Sampling(top_p=0.71), [1, 3, 4], 1.0),
        (Sampling(top_p=1.0), [0, 1, 2, 3, 4], 1.0),
        # Of the three likeliest, 0.4 / 0.85 + 0.3 / 0.85 = 0.82.
        (Sampling(top_k=3, top_p=0.8), [1, 3], 1.0),
        (Sampling(top_k=3, top_p=0.83), [1, 3, 4], 1.0),
        # Squared first: 0.16 / 0.285 = 0.56, and with 0.09 0.88.
        (Sampling(temperature=0.5, top_p=0.87), [1, 3], 2.0),
        (Sampling(temperature=0.5, top_p=0.89), [1, 3, 4], 2.0),
    ],
)
def test_frequencies_match_the_distribution(sampling, kept, power):
    logits = jnp.broadcast_to(jnp.log(DISTRIBUTION) + 7.0, (ROWS, SIZE))
    expected = np.zeros(SIZE)
    expected[kept] = np.asarray(DISTRIBUTION)[kept] ** power
    assert_frequencies(sampling.draw(logits, RNG), expected / expected.sum())


def test_the_tokens_of_a_row_are_drawn_independently():
    logits = jnp.broadcast_to(jnp.log(DISTRIBUTION) + 7.0, (ROWS, SIZE))
    rules = Rules(max_length=3, eos_id=None, forbidden=(4,))
    step = lambda tokens, state: (state, state)
    decode = lambda x: sample(step, x, x, rules, Sampling(), rng=RNG)
    decoded = jax.jit(decode)(logits)
    tokens = np.asarray(decoded.tokens)
    expected = np.asarray(DISTRIBUTION) * [1, 1, 1, 1, 0]
    expected /= expected.sum()
    for i, j in ((0, 1), (1, 2), (0, 2)):
        joint = np.zeros((SIZE, SIZE))
        np.add.at(joint, (tokens[:, i], tokens[:, j]), 1 / ROWS)
        np.testing.assert_allclose(joint, np.outer(expected, expected), atol=0.015)
        assert_frequencies(tokens[:, i], expected)
    # Scores are the model's own, before anything is forbidden.
    scores = np.log(np.asarray(DISTRIBUTION))[tokens].sum(1)
    np.testing.assert_allclose(decoded.scores, scores, rtol=1e-4)


@pytest.mark.parametrize("field", [dict(top_k=2), dict(top_p=0.5), dict(top_p=1e-9)])
def test_ties_leave_no_more_than_were_asked_for(field):
    logits = jnp.zeros((4000, 4))
    tokens = Sampling(**field).draw(logits, RNG)
    allowed = {0} if field == dict(top_p=1e-9) else {0, 1}
    assert set(np.asarray(tokens).tolist()) == allowed


@pytest.mark.parametrize("temperature", [0, 1e-30])
def test_temperature_zero_and_a_tiny_one_are_greedy(temperature):
    found = Sampling(temperature=temperature).draw(TABLES, RNG)
    np.testing.assert_array_equal(found, TABLES.argmax(-1))


def test_samples_follow_their_key():
    one, same, other = (
        draw(TABLES, jax.random.key(seed), sampling=Sampling()) for seed in (1, 1, 2)
    )
    jax.tree.map(np.testing.assert_array_equal, one, same)
    assert (one.tokens != other.tokens).any()


@pytest.mark.parametrize("way", [draw, functools.partial(search, beam_size=3)])
def test_prompts_of_different_lengths_in_one_batch_equal_each_alone(way):
    # Rows begin after their first token, and some must read on; an end that is read ends
    # nothing.
    prompts = [[3], [1, 4], [4, EOS]]
    shared, forced = decoding.split_prompts(prompts)
    assert shared.tolist() == [[3], [1], [4]]
    assert forced.lengths.tolist() == [0, 1, 1]
    rules = Rules(max_length=2, eos_id=EOS)
    tables = TABLES[:3]

    def nodes(rows):
        return jnp.array([node_of(row) for row in rows])

    together = way(tables, nodes=nodes(shared.tolist()), forced=forced, rules=rules)
    alone = way(tables, nodes=nodes(prompts), rules=rules)
    np.testing.assert_array_equal(together.tokens, alone.tokens)
    np.testing.assert_array_equal(together.lengths, alone.lengths)
    np.testing.assert_allclose(together.scores, alone.scores, rtol=1e-5)


def test_forced_tokens_may_be_padded_with_anything():
    rules = Rules(max_length=2, eos_id=EOS)
    lengths = jnp.array([0, 1])
    found = [
        draw(TABLES[:2], forced=Forced(jnp.array(tokens), lengths), rules=rules)
        for tokens in ([[0, 0], [3, 0]], [[4, 4], [3, 4]])
    ]
    jax.tree.map(np.testing.assert_array_equal, *found)


# --- Linen models ---------------------------------------------------------------------


def test_rows_are_gathered_along_the_batch():
    state = {
        "cache": {
            "index": jnp.int32(4),
            "block_0": {"key": jnp.arange(3)},
            "decoder": {
                "blocks": {"key": jnp.arange(6).reshape(2, 3), "index": jnp.arange(2)}
            },
        }
    }
    found = gather_rows(state, jnp.array([2, 2, 0, 1]))["cache"]
    assert found["index"] == 4
    assert found["block_0"]["key"].tolist() == [2, 2, 0, 1]
    assert found["decoder"]["blocks"]["key"].tolist() == [[2, 2, 0, 1], [5, 5, 3, 4]]
    assert found["decoder"]["blocks"]["index"].tolist() == [0, 1]


def test_the_penalty_is_that_of_the_paper():
    assert float(penalty(1, 0.7)) == 1.0
    assert math.isclose(penalty(7, 1.0), 2.0, rel_tol=1e-6)
    assert math.isclose(penalty(19, 0.5), 2.0, rel_tol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Rules(max_length=0), "max_length=0"),
        (lambda: Rules(max_length=3, min_length=4), "min_length=4"),
        (lambda: Rules(max_length=3, forbidden=(2,)), "eos_id=2 is forbidden"),
        (lambda: Sampling(temperature=-1), "temperature=-1"),
        (lambda: Sampling(temperature=math.nan), "temperature=nan"),
        (lambda: Sampling(top_k=0), "top_k=0"),
        (lambda: Sampling(top_p=0), "top_p=0"),
        (lambda: Sampling(top_p=1.5), "top_p=1.5"),
        (lambda: decoding.split_prompts([[1], []]), "needs at least 1"),
        (lambda: beam_search(None, None, None, None, beam_size=0), "beam_size=0"),
        (
            lambda: beam_search(None, None, None, None, beam_size=2, num_sequences=3),
            "num_sequences=3",
        ),
    ],
)
def test_wrong_settings_are_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
