"""A model may train on terms of its own beside the loss of its logits; others are trained as before."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from unisc.data.pipeline import packed
from unisc.models.rankmixer import L1_GROWTH, L1_START, RankMixer, RankMixerConfig
from unisc.nn.recompute import recompute
from unisc.train import state as train_state
from unisc.train.ranking import batch_shape, train, train_mesh
from unisc.train.step import Hyper, make_train_step, parts_of

RATE = 0.01


def fresh(model, columns):
    return train_state.create(
        model,
        num_rows=columns.spec.num_rows,
        embed_dim=4,
        seed=0,
        table_init_std=0.1,
        table_optimizer="adagrad",
        clip_norm=1e9,
    )


@pytest.fixture
def one_step(train_columns, config):
    """Make one step of a model without the optimiser's averages showing: returns (state before, state after, metrics)."""

    def run(model, purchase_weight=0.5, **options):
        shape = batch_shape(train_columns, config)
        batch = parts_of(packed(train_columns, shape, seed=0, num_epochs=1, position_dropout=0.0)[0], 1)
        state = fresh(model, train_columns)
        before = jax.tree.map(jnp.copy, state)
        hyper = np.asarray(Hyper(RATE, RATE, 0.0, purchase_weight), np.float32)
        after, metrics = make_train_step(nnx.graphdef(model), 1e9, train_mesh(1), **options)(state, batch, hyper)
        return before, after, metrics

    return run


def with_penalty(model, penalty):
    """Give a model of the tests a term of its own and a count of its steps."""

    class Penalised(type(model)):
        def with_penalty(self, rows, batch, loss_of):
            self.calls[...] = self.calls[...] + 1
            logits = self(rows, batch)
            return logits, penalty(self, logits, loss_of)

    model.__class__ = Penalised
    model.calls = nnx.Variable(jnp.zeros((), jnp.int32))
    return model


def test_a_penalty_is_trained_on_and_not_reported(make_model, one_step):
    _, _, plain = one_step(make_model())
    _, _, same = one_step(with_penalty(make_model(), lambda model, logits, loss_of: 0.0))
    before, after, pressed = one_step(with_penalty(make_model(), lambda model, logits, loss_of: 1e6 * model.out.bias.sum()))
    assert plain.loss == same.loss == pressed.loss and plain.grad_norm == same.grad_norm
    assert pressed.grad_norm == pytest.approx(1e6 * np.sqrt(2), rel=1e-3)
    # The penalty outweighs the loss, so Adam's first step lowers each bias by the rate.
    np.testing.assert_allclose(after.dense["out"]["bias"], before.dense["out"]["bias"] - RATE, rtol=1e-3)


def test_variables_that_a_penalty_changes_go_on_with_the_state(make_model, one_step):
    before, after, _ = one_step(with_penalty(make_model(), lambda model, logits, loss_of: 0.0))
    assert int(before.rest["calls"]) == 0 and int(after.rest["calls"]) == 1


def test_further_logits_are_held_to_the_same_weights_and_labels(make_model, one_step):
    """The logits' own loss, added once more, doubles the gradient; the weights of the tasks are in it."""
    for purchase_weight in (0.5, 0.0):
        _, _, plain = one_step(make_model(), purchase_weight)
        twice = with_penalty(make_model(), lambda model, logits, loss_of: loss_of(logits))
        assert one_step(twice, purchase_weight)[2].grad_norm == pytest.approx(2 * float(plain.grad_norm), rel=1e-5)


@pytest.mark.parametrize(("remat", "num_traces"), [(False, 1), (True, 2)])
def test_remat_computes_layers_again_for_the_same_gradient(make_model, one_step, remat, num_traces):
    traces = []

    class Layered(type(make_model())):
        def __call__(self, rows, batch):
            traces.append("model")
            return recompute(self.traced, self, rows, batch)

        @staticmethod
        def traced(model, rows, batch):
            traces.append("layer")
            return super(type(model), model).__call__(rows, batch)

    model = make_model()
    model.__class__ = Layered
    _, after, metrics = one_step(model, remat=remat)
    assert traces.count("layer") == num_traces * traces.count("model")
    _, plain, wanted = one_step(make_model())
    assert metrics.grad_norm == pytest.approx(float(wanted.grad_norm), rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), after.dense, plain.dense)


def test_routing_moves_once_a_step_whatever_the_number_of_parts(train_columns, config):
    """Parts are even in candidates and requests, so that a cut into fewer sends no candidate to the other router."""
    model_config = RankMixerConfig(embed_dim=4, num_tokens=4, dim=8, ffn_dim=16, num_layers=1, num_experts=4)
    model = RankMixer(model_config, train_columns.spec, rngs=nnx.Rngs(0))
    shape = dataclasses.replace(batch_shape(train_columns, dataclasses.replace(config, num_parts=4)), requests=24)
    source = packed(train_columns, shape, seed=0, num_epochs=1, position_dropout=0.0)
    step, after = make_train_step(nnx.graphdef(model), 1.0, train_mesh(1)), {}
    for num_parts in (1, 2, 4):
        state = fresh(model, train_columns)
        for index in range(2):
            hyper = np.asarray(Hyper(RATE, RATE, 0.0, 0.0), np.float32)
            state, _ = step(state, parts_of(source[index], num_parts), hyper)
        after[num_parts] = state
        assert float(state.rest["l1"]) == pytest.approx(L1_START * L1_GROWTH**2)
    for num_parts in (2, 4):
        np.testing.assert_array_equal(after[num_parts].rest["l1"], after[1].rest["l1"])
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), after[num_parts].dense, after[1].dense
        )


def test_routed_experts_train_and_their_penalty_finds_its_strength(train_columns, config):
    model_config = RankMixerConfig(embed_dim=4, num_tokens=4, dim=8, ffn_dim=16, num_experts=4, active_experts=1)
    model = RankMixer(model_config, train_columns.spec, rngs=nnx.Rngs(0))
    result = train(model, train_columns, dataclasses.replace(config, num_epochs=4), embed_dim=4)
    # Half of the gates start open, a quarter are wanted: the strength rises from its start.
    assert float(result.state.rest["l1"]) > 2 * L1_START
    assert np.isfinite(result.loss)
