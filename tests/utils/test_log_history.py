"""Results and the course of training from a log history."""

import math

from merlin_hf.utils.log_history import LOG_ROWS, last_evaluations, training_table


def train(step, loss):
    return {"loss": loss, "source_loss": 2 * loss, "epoch": step / 10, "step": step}


def evaluation(step, accuracy, name="", **more):
    prefix = f"eval_{name}_" if name else "eval_"
    metrics = {"loss": 1 - accuracy, "accuracy": accuracy, "runtime": 2.0, "samples_per_second": 3.0, **more}
    return {**{f"{prefix}{key}": value for key, value in metrics.items()}, "epoch": step / 10, "step": step}


END = {"train_runtime": 5.0, "train_loss": 0.3, "step": 30}


def metrics(evaluations):
    return [(e.name, e.step, {key: round(value, 3) for key, value in e.metrics.items()}) for e in evaluations]


def test_the_last_evaluation_without_speed_and_without_the_heads_own_rows():
    history = [train(10, 0.5), evaluation(10, 0.6), evaluation(20, 0.7, head_train_accuracy=1.0, head_l2=0.1), END]
    assert metrics(last_evaluations(history)) == [(None, 20, {"loss": 0.3, "accuracy": 0.7})]


def test_the_model_that_was_loaded_at_the_end_is_the_one_that_is_judged():
    history = [evaluation(10, 0.8), evaluation(20, 0.7), END]
    assert metrics(last_evaluations(history, best_step=10)) == [(None, 10, {"loss": 0.2, "accuracy": 0.8})]
    # While training goes on, it is the model of the last step.
    assert metrics(last_evaluations(history[:2], best_step=10)) == [(None, 20, {"loss": 0.3, "accuracy": 0.7})]
    later = [*history, evaluation(30, 0.81)]
    assert metrics(last_evaluations(later, best_step=10)) == [(None, 10, {"loss": 0.19, "accuracy": 0.81})]


def test_several_evaluation_sets_each_have_their_own():
    history = [
        evaluation(10, 0.5, "a"),
        evaluation(10, 0.6, "a_b"),
        evaluation(20, 0.7, "a"),
        evaluation(20, 0.8, "a_b"),
    ]
    found = last_evaluations(history, eval_names=["a", "a_b"])
    assert metrics(found) == [("a", 20, {"loss": 0.3, "accuracy": 0.7}), ("a_b", 20, {"loss": 0.2, "accuracy": 0.8})]


def test_an_evaluation_of_another_set_is_not_mixed_with_the_one_before():
    history = [END, evaluation(30, 0.9, f1=0.5), evaluation(30, 0.4)]
    assert metrics(last_evaluations(history)) == [(None, 30, {"loss": 0.6, "accuracy": 0.4})]


def test_what_is_no_finite_number_is_no_result():
    history = [evaluation(10, 0.6, f1=math.nan, mcc=math.inf, name_of_it="x")]
    assert metrics(last_evaluations(history)) == [(None, 10, {"loss": 0.4, "accuracy": 0.6})]
    assert last_evaluations([]) == [] and last_evaluations([train(1, 0.1)]) == []


def test_the_table_has_a_row_for_each_evaluation_with_the_training_loss_before_it():
    rows = training_table(
        [train(5, 0.9), train(10, 0.5), evaluation(10, 0.6), train(15, 0.4), evaluation(20, 0.7), END]
    )
    assert [(row["Step"], row["Training loss"], row["Validation accuracy"]) for row in rows] == [
        ("10", "0.5", "0.6"),
        ("20", "0.4", "0.7"),
    ]
    assert all(row.keys() == rows[0].keys() for row in rows)


def test_the_table_of_a_long_run_is_short_and_has_both_ends():
    rows = training_table([train(step, 1 / step) for step in range(1, 500)])
    assert len(rows) == LOG_ROWS and rows[0]["Step"] == "1" and rows[-1]["Step"] == "499"
    assert training_table([]) == [] and training_table([END]) == []
