"""Faults sown into our own code, one at a time, and for each the tests that have to fail then.

A row is a promise of the suite: whoever breaks this is told. The text is found exactly once in its file; a
unit test sees to that, so that a row that code has outgrown is noticed.
"""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """One fault.

    Attributes:
        name: What is wrong then, in words.
        file: In the package.
        text: What stands there, exactly once.
        instead: What is put in its place.
        tests: Node ids below `tests`; one of them has to fail.
    """

    name: str
    file: str
    text: str
    instead: str
    tests: tuple[str, ...]


def _row(name: str, file: str, text: str, instead: str, *tests: str) -> Mutant:
    return Mutant(name, file, text, instead, tests)


_CLUSTERS = "provision/test_clusters.py::test_"
_OURS = "provision/test_ownership.py::test_"
_KEPT = "provision/test_kept.py::test_"
_KNOWN = "provision/test_known.py::test_"
_LOST = "runner/test_lost_tasks.py::test_"
_PRICES = "unit/test_price_list.py::test_"

MUTANTS = (
    # Launches
    _row(
        "machines are launched without their tags",
        "aws/instances.py",
        'tags.specifications(labels, "instance", "volume", "network-interface")',
        'tags.specifications(labels, "volume", "network-interface")',
        f"{_CLUSTERS}a_users_tags_are_on_every_machine_beside_ours",
    ),
    _row(
        "what set-up makes has no tags in the call that makes it",
        "aws/tagged.py",
        '    parameters["TagSpecifications"] = tags.specifications(labels, resource_type)\n',
        "",
        "provision/test_account.py::test_everything_that_can_bear_a_tag_bears_ours_from_its_creating_call_on",
    ),
    _row(
        "a launch that is sent again has a new token",
        "tasks/launch.py",
        "partial(once, size, token))",
        'lambda: once(size, __import__("secrets").token_hex(32)))',
        f"{_CLUSTERS}a_lost_reply_to_run_instances_launches_nothing_twice",
        "provision/test_says_no.py::test_a_throttled_launch_is_sent_again_with_its_token",
    ),
    _row(
        "a call that makes something and has no token is sent again by botocore",
        "aws/door.py",
        '"once": 1, "launch": 1}',
        '"once": 6, "launch": 1}',
        "provision/test_account.py::test_a_lost_reply_to_create_vpc_makes_no_second_vpc",
    ),
    _row(
        "a launch that is refused for a lack of capacity is sent again by botocore",
        "aws/door.py",
        '"once": 1, "launch": 1}',
        '"once": 1, "launch": 6}',
        f"{_CLUSTERS}without_capacity_in_a_zone_the_next_zone_is_taken",
        f"{_CLUSTERS}no_capacity_anywhere_names_what_was_tried_and_leaves_nothing",
    ),
    _row(
        "what came of a launch that was given fewer machines than asked is thrown away",
        "tasks/launch.py",
        'if len(made) < max(least, 1 if role == "scheduler" else 0):',
        "if len(made) < count:",
        f"{_CLUSTERS}fewer_workers_than_asked_are_accepted_within_wait_for_workers",
    ),
    _row(
        "machines that were launched are not noted by their ids",
        "tasks/launch.py",
        "            session.launched.extend(i.instance_id for i in got)\n",
        "",
        "provision/test_organisations.py::test_machines_of_a_launch_that_fails_end_where_aws_lists_none",
    ),
    _row(
        "a launch that fails gives nothing back",
        "provision/clusters.py",
        "                removal = give_back(session, spec)\n",
        "",
        f"{_CLUSTERS}a_denied_call_leaves_nothing_and_names_the_action",
    ),
    _row(
        "what fails in giving back hides why the launch failed",
        "provision/clusters.py",
        "        return None\n    session.launched.clear()",
        "        raise\n    session.launched.clear()",
        f"{_CLUSTERS}a_clean_up_that_fails_does_not_hide_the_first_cause",
    ),
    _row(
        "a stop is not heard by who waits",
        "aws/waits.py",
        '        if aws.stop.wait(pause):\n            raise StoppedError(what, "a stop was asked for")\n',
        "        aws.stop.wait(pause)\n",
        "unit/test_waits.py::test_a_stop_ends_a_wait_that_asks_aws_nothing",
    ),
    _row(
        "AWS is called though a stop was asked for",
        "aws/door.py",
        '        if self.stop.is_set():\n            raise StoppedError(what, "a stop was asked for")\n',
        "",
        f"{_CLUSTERS}a_stop_during_the_launch_ends_it_and_leaves_nothing",
    ),
    _row(
        "a slot is kept by a launch that failed",
        "cluster/launch.py",
        "        if slot is not None:\n            slot.release()\n",
        "",
        "cluster/test_watching.py::test_a_launch_that_fails_gives_its_slot_back",
    ),
    _row(
        "machines answer for their metadata without a token",
        "plan/cluster.py",
        '"HttpTokens": "required",',
        '"HttpTokens": "optional",',
        "provision/test_permissions.py::"
        "test_no_machine_with_open_metadata_or_a_plain_disk_is_launched_even_by_who_may_do_everything",
        f"{_CLUSTERS}machines_are_closed_and_private_by_default",
    ),
    _row(
        "a bake that finds its image leaves what an earlier one left",
        "provision/bake.py",
        "                    _end(session, builder, None)\n",
        "                    pass\n",
        "provision/test_bakes.py::test_a_bake_ends_what_one_left_that_was_killed_once_it_had_its_image",
    ),
    _row(
        "a set-up that waited for the lease decides by what it had seen before",
        "provision/set_up.py",
        "        there = look(aws, asked_of(want), ours=True)\n"
        "        wide = widened(want, there, registry)\n",
        "        wide = widened(want, there, registry)\n"
        "        there = look(aws, asked_of(want), ours=True)\n",
        "provision/test_destruction.py::"
        "test_a_set_up_that_waited_while_the_account_was_destroyed_makes_all_of_a_new_one",
    ),
    # Removals
    _row(
        "a machine that a list lacks once counts as gone",
        "aws/instances.py",
        "                elif clock() - missing_since.setdefault(one, clock()) > CONSISTENCY:\n",
        "                else:\n",
        "provision/test_organisations.py::test_a_machine_that_lists_lack_for_a_moment_is_not_taken_for_gone",
    ),
    _row(
        "what EC2 does not know yet counts as gone with its first refusal",
        "aws/kinds.py",
        "        _drop_listed(aws, kind, items, min(patience, CONSISTENCY))\n\n",
        "        return\n\n",
        "provision/test_destruction.py::test_what_aws_did_not_know_yet_goes_all_the_same",
    ),
    _row(
        "a removal ends the machines of all clusters that had the name",
        "provision/cluster_removal.py",
        "lambda: find(aws, kind, Scope(name, uid))",
        "lambda: find(aws, kind, Scope(name))",
        f"{_OURS}a_sweep_leaves_the_new_cluster_of_an_old_name",
    ),
    _row(
        "a cluster's name goes with one that had it before",
        "aws/intents.py",
        'is not None and uid_of(found) == item["Uid"]:',
        "is not None:",
        f"{_OURS}a_name_that_went_to_another_cluster_since_it_was_looked_at_is_left_to_it",
    ),
    _row(
        "a sweep does not look again whether a cluster is dead",
        "provision/sweeping.py",
        "    if (name, uid) not in look(aws, name).dead:\n        return Removal(), []\n",
        "",
        f"{_OURS}a_sweep_leaves_a_cluster_that_lives_by_the_time_that_it_comes_to_it",
    ),
    _row(
        "a sweep takes clusters that are coming up",
        "aws/intents.py",
        '"starting" if item["Age"] < parameters.starting(item["Cluster"]) else ""',
        '""',
        "provision/test_what_is_left.py::test_a_sweep_says_which_cluster_is_too_young_for_it_and_until_when",
    ),
    _row(
        "who comes to a cluster before its keys are there is refused",
        "cluster/launch.py",
        "            if keys is None and time.monotonic() > end:\n",
        "            if keys is None:\n",
        f"{_CLUSTERS}whoever_comes_to_a_cluster_before_its_keys_are_there_waits_for_them",
    ),
    _row(
        "a change that AWS asks to be sent again is sent though the lease was lost meanwhile",
        "aws/door.py",
        "            with checked(self.fence if changes(action) else None):\n",
        "            with checked(None):\n",
        "provision/test_ownership.py::test_a_change_is_not_tried_again_once_the_lease_is_lost",
    ),
    _row(
        "what undoes a transaction is part of it",
        "task_runner/transactions.py",
        "        outer = None if _undoes.get() else get_transaction()\n",
        "        outer = get_transaction()\n",
        "unit/test_transaction_parts.py::test_a_hook_that_undoes_by_a_task_may_wait_for_it_though_that_fails",
    ),
    _row(
        "a task that was given up by its time limit is committed",
        "task_runner/transactions.py",
        "ending.kind in (StateType.FAILED.value, StateType.CRASHED.value)",
        "False",
        "unit/test_transaction_parts.py::"
        "test_a_task_that_was_given_up_before_its_own_transaction_ended_undoes_all[FAILED]",
    ),
    _row(
        "a killed client's context stays on a shared scheduler",
        "task_runner/once.py",
        "        asyncio.get_running_loop().call_later(GONE_S, self._forget, scheduler, True)\n",
        "        asyncio.get_running_loop()\n",
        "unit/test_forgetting.py::test_the_news_and_the_context_of_a_client_that_was_killed_are_forgotten",
    ),
    _row(
        "a result that cannot be pickled is lost when its worker spills",
        "task_runner/sent_record.py",
        "            if is_spilling():\n",
        "            if False:\n",
        "unit/test_sent_record.py::test_what_cannot_be_pickled_stays_in_memory_where_a_worker_spills",
    ),
    _row(
        "a name is removed by what was seen of it without the lease on it",
        "aws/intents.py",
        "        check = leases.take(aws, lease)\n",
        "        check = lambda: None\n",
        "matrix/test_races.py::test_two_at_once_end_as_one_after_the_other_would[sweep and launch]",
    ),
    _row(
        "a sweep takes a NAT gateway that a cluster that is coming up will use",
        "plan/changes.py",
        "for one in (*self.live, *self.starting)}))",
        "for one in self.live}))",
        f"{_CLUSTERS}a_sweep_beside_a_launch_leaves_it_its_nat_gateway",
    ),
    _row(
        "what is known of an account is believed though somebody has changed it since",
        "aws/known.py",
        "return known.version == version and of_account and known.wants == wants(aws)",
        "return of_account and known.wants == wants(aws)",
        f"{_KNOWN}what_was_noted_while_somebody_changed_it_is_not_believed",
    ),
    _row(
        "machines are launched by what is known of an account, though it does not hold any more",
        "provision/launching.py",
        "if confirmed is not None and not confirmed.result():",
        "if False:",
        f"{_KNOWN}a_sweep_beside_a_launch_that_knows_leaves_it_a_nat_gateway",
    ),
    _row(
        "whoever changes what clusters share leaves what is known of it",
        "aws/known.py",
        'f"forgetting what is known of account ({aws.account})", lambda: forget(aws))',
        '"", lambda: None)',
        f"{_KNOWN}after_a_sweep_all_is_looked_at_and_the_nat_gateway_is_made_again",
    ),
    _row(
        "a launch by what is known does not see that its name was taken away",
        "tasks/known.py",
        "    if seen.holder != spec.uid:\n",
        "    if False:\n",
        f"{_KNOWN}a_cluster_whose_name_was_taken_away_launches_nothing",
    ),
    _row(
        "a sweep removes what all share by what it saw before it had the lease",
        "provision/sweeping.py",
        "                wanted = wanted.within(sweep_of(aws, there, release_nat))\n",
        "",
        f"{_CLUSTERS}a_sweep_leaves_its_nat_gateway_to_a_cluster_that_came_after_it_had_looked",
    ),
    _row(
        "the name of a cluster is free before the rest of it is gone",
        "provision/cluster_removal.py",
        "    with leaving(known):\n        for n, one",
        "    parameters.delete_parameters(aws, [parameters.intent_of(aws.account, name)])\n"
        "    with leaving(known):\n        for n, one",
        "provision/test_what_is_left.py::test_a_cluster_keeps_its_name_until_nothing_is_left_of_it",
    ),
    _row(
        "nobody waits until what was deleted is gone",
        "provision/removal.py",
        "            if kind.gone is not None:\n",
        "            if False:\n",
        "provision/test_ways_down.py::"
        "test_a_machine_that_stays_shutting_down_is_named_and_what_waits_for_it_goes_later",
    ),
    _row(
        "what S3 says that it did not delete is not heard",
        "aws/bucket.py",
        "    if stayed:\n",
        "    if False:\n",
        "provision/test_what_is_left.py::test_a_bucket_that_keeps_a_file_ends_in_words",
    ),
    _row(
        "only the first page of a list is read",
        "aws/door.py",
        "                    read += 1\n",
        "                    read += 1\n                    break\n",
        "provision/test_organisations.py::test_a_list_whose_page_is_taken_no_more_begins_again",
    ),
    _row(
        "one machine that AWS keeps keeps the others running",
        "aws/instances.py",
        "            if len(some) > 1:\n",
        "            if False:\n",
        "provision/test_organisations.py::test_one_machine_that_aws_keeps_keeps_no_other_running",
    ),
    _row(
        "a forked child closes its parent's clusters",
        "cluster/forgotten.py",
        'if hasattr(os, "register_at_fork"):',
        "if False:",
        "cluster/test_contract.py::test_a_process_that_forks_off_does_not_close_the_cluster",
    ),
    # Leases
    _row(
        "a door whose lease is lost goes on",
        "aws/leases.py",
        "    before, aws.fence = aws.fence, held.check\n",
        "    before = aws.fence\n",
        f"{_OURS}who_has_lost_a_lease_changes_nothing_any_more",
    ),
    _row(
        "two take over the same stale lease",
        "aws/leases.py",
        "mine = version == 1 or read_version(aws, name, version - 1) == found[0]",
        "mine = True",
        f"{_OURS}a_lease_is_held_by_one",
    ),
    _row(
        "who has lost a lease gives it back",
        "aws/leases.py",
        "        self.check()  # each try",
        "        # each try",
        f"{_OURS}who_has_lost_a_lease_changes_nothing_any_more",
    ),
    _row(
        "who has lost a lease writes it again",
        "aws/leases.py",
        "            if self.lost:\n                return  #",
        "            if False:\n                return  #",
        f"{_OURS}who_has_lost_a_lease_changes_nothing_any_more",
    ),
    _row(
        "a lease is given back only where all went well",
        "aws/leases.py",
        "    try:\n        yield held\n    finally:\n",
        "    yield held\n    if True:\n",
        f"{_OURS}a_lease_is_given_back_where_what_was_done_under_it_failed",
    ),
    # Whose it is
    _row(
        "what another account of the slugs made counts as ours",
        "aws/ownership.py",
        "        and labels.get(tags.ACCOUNT) == aws.account\n",
        "",
        f"{_OURS}what_is_ours_has_our_tags_and_is_in_our_aws_account",
    ),
    _row(
        "what is in another AWS account counts as ours",
        "aws/ownership.py",
        "        and number == aws.number\n",
        "",
        f"{_OURS}what_is_ours_has_our_tags_and_is_in_our_aws_account",
    ),
    _row(
        "a bucket is written to whosever tags it has",
        "aws/bucket.py",
        "    if found is not None:\n        check_ours(",
        "    if found is None:\n        check_ours(",
        f"{_OURS}a_bucket_with_the_tags_of_somebody_else_is_refused_and_stays_as_it_is",
    ),
    _row(
        "S3 is not told whose the bucket has to be",
        "aws/door.py",
        'return {**parameters, "ExpectedBucketOwner": self.number}',
        "return parameters",
        f"{_OURS}a_bucket_of_another_aws_account_is_neither_read_nor_written",
    ),
    _row(
        "a rule of the firewall that is no longer said stays open",
        "aws/security_groups.py",
        "    extra = [rule for key, rule in have.items() if key not in want]\n",
        "    extra: list[dict[str, Any]] = []\n",
        "provision/test_network.py::test_rules_change_while_the_cluster_runs_and_stay_changed",
    ),
    # Secrets and doors
    _row(
        "a secret of the wrong shape is repeated by the error",
        "plan/node_config.py",
        'extra="forbid", hide_input_in_errors=True)',
        'extra="forbid")',
        "unit/test_node_config.py::test_keys_of_the_wrong_shape_are_not_repeated_by_the_error",
    ),
    _row(
        "TLS is optional on a machine",
        "node/dask_process.py",
        '"distributed.comm.require-encryption": True}',
        '"distributed.comm.require-encryption": False}',
        "unit/test_tls.py::test_a_machine_speaks_to_nobody_without_tls_whatever_its_configuration_says",
    ),
    _row(
        "the dashboard listens without TLS",
        "node/scheduler.py",
        '        if not dask.config.get("distributed.scheduler.dashboard.tls.cert"):\n',
        "        if False:\n",
        "unit/test_anteroom.py::test_a_scheduler_shows_no_pages_without_tls",
    ),
    _row(
        "the dashboard opens with any token",
        "node/gate.py",
        'return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode())',
        "return bool(given)",
        "unit/test_gate.py::test_another_token_than_the_gates_lets_nobody_in",
    ),
    _row(
        "a dashboard without a token is open",
        "node/gate.py",
        "        if not self._token:\n            return 401, {}\n",
        "        if not self._token:\n            return None\n",
        "unit/test_gate.py::test_a_gate_without_a_token_lets_nobody_in",
    ),
    _row(
        "a page of another site opens a websocket",
        "node/gate.py",
        "        if _is_foreign(start.method, headers):\n            return 403, {}\n",
        "",
        "unit/test_gate.py::test_a_page_of_another_site_gets_no_websocket_and_changes_nothing",
    ),
    _row(
        "a wheel with another content than the index said is taken",
        "environment/download.py",
        "    if wheel.sha256 and found != wheel.sha256:\n",
        "    if False:\n",
        "unit/test_download.py::test_another_file_than_the_locks_is_refused",
    ),
    _row(
        'the text "false" is a yes',
        "options/kinds.py",
        "        return _BOOL.validate_python(value.strip() if isinstance(value, str) else value)\n",
        "        return bool(value)\n",
        "unit/test_keywords.py::test_a_text_that_says_no_opens_nothing_and_keeps_the_cluster",
    ),
    # Machines end by themselves
    _row(
        "a client that came and went between two looks does not count",
        "node/timers.py",
        "        self._seen, self._alone_since = True, None\n",
        "        self._alone_since = None\n",
        "unit/test_node_parts.py::test_a_client_that_came_and_went_between_two_looks_counts",
    ),
    _row(
        "a scheduler takes no note of a client that comes",
        "node/scheduler.py",
        "            self._came()\n            self._bear(comm)\n",
        "            self._bear(comm)\n",
        "unit/test_anteroom.py::test_a_scheduler_takes_note_of_a_client_as_it_comes_and_of_no_task_s",
    ),
    _row(
        "an idle cluster runs on",
        "node/scheduler_role.py",
        '        dask.config.set({"distributed.scheduler.idle-timeout": config.idle_timeout})\n',
        "",
        "node/test_life.py::test_a_scheduler_closes_by_its_timers",
    ),
    _row(
        "a cluster without clients runs on",
        "node/timers.py",
        '        return "no-client" if now - self._alone_since >= self.no_client_timeout else None',
        "        return None",
        "unit/test_node_parts.py::test_no_client_counts_from_the_first_client_on",
    ),
    _row(
        "a cluster whose time is up runs on while there are clients",
        "node/timers.py",
        "        if self.cluster_timeout is not None and now",
        "        if self.cluster_timeout is not None and not clients and now",
        "unit/test_node_parts.py::test_no_timeout_means_never_and_the_cluster_timeout_holds_with_clients",
    ),
    # Tasks
    _row(
        "a task does not wait for what it has to wait for",
        "task_runner/runner.py",
        "            wait_for or None,\n",
        "            None,\n",
        "runner/test_faithful.py::test_a_task_waits_for_every_shape_of_wait_for",
    ),
    _row(
        "a task that has completed is run again when its worker dies",
        "task_runner/once.py",
        "        if found is not None and calls(found.run_spec, run_task):\n",
        "        if False:\n",
        "runner/test_once.py::test_what_has_completed_is_not_run_again_when_its_worker_dies",
    ),
    _row(
        "lost tasks are not reported",
        "task_runner/runner.py",
        "            run(report, endings, seconds)\n",
        "",
        f"{_LOST}a_lost_task_that_nobody_waits_for_fails_the_flow",
    ),
    _row(
        "what ended while the flow had lost the scheduler is Crashed",
        "task_runner/futures.py",
        "            self._lose(self.explain(error), tell and not cut_off)\n",
        "            self._lose(self.explain(error), tell)\n",
        f"{_LOST}a_task_that_ended_while_the_flow_had_lost_the_scheduler_shows_what_it_came_to",
    ),
    _row(
        "a task that ends its program ends its worker",
        "task_runner/worker.py",
        "        state = _crashed(error, told.run, here.flow_run_id)\n",
        "        raise\n",
        "runner/test_exits.py::test_a_task_that_ends_its_program_is_crashed_and_no_neighbour_is_touched",
    ),
    _row(
        "a transaction whose task was lost is committed",
        "task_runner/transactions.py",
        "                if future.is_lost:\n",
        "                if False:\n",
        "runner/test_lost_in_transactions.py::"
        "test_a_transaction_whose_task_is_lost_is_rolled_back_though_nobody_waited_for_it",
    ),
    _row(
        "what a transaction's tasks did is committed before the last of them has ended",
        "task_runner/transactions.py",
        "            transaction.children.insert(0, gate)\n",
        "            pass\n",
        "runner/test_lost_in_transactions.py::"
        "test_nothing_is_committed_before_the_last_task_of_a_transaction_has_ended",
    ),
    _row(
        "a persisted collection comes to one worker",
        "task_runner/shipping.py",
        "            if not self._in_collection:\n                return value\n",
        "            return value\n",
        "runner/test_passed_on.py::"
        "test_a_persisted_collection_stays_where_it_is_and_is_there_until_its_task_has_ended",
    ),
    _row(
        "a scheduler gives a silent client up as soon as any other",
        "node/scheduler.py",
        "            self._bear(comm)\n",
        "",
        "node/test_life.py::test_a_scheduler_bears_the_silence_of_a_client_for_twice_as_long_as_it_may_be_away",
    ),
    _row(
        "a mask that Prefect's form saved stays",
        "blocks/account.py",
        "        return named_again(cls, data) if isinstance(data, Mapping) else data\n",
        "        return data\n",
        "unit/test_blocks.py::"
        "test_an_account_that_names_blocks_and_was_edited_in_the_form_opens_and_names_them_still",
    ),
    _row(
        "a flow that lost a task is Completed",
        "task_runner/runner.py",
        "        if silent := unseen(lost, returned, self._in_flow):\n",
        "        if silent := ():\n",
        f"{_LOST}a_lost_task_that_nobody_waits_for_fails_the_flow",
    ),
    _row(
        "an async flow does not see its tasks through",
        "task_runner/flow_end.py",
        "            await asyncio.to_thread(runner.settle, result)\n",
        "            pass\n",
        f"{_LOST}an_async_flow_that_forgets_a_lost_task_fails",
    ),
    _row(
        "a flow ends before the API has what its tasks told",
        "task_runner/runner.py",
        "        fetch_returned(returned)\n        self._record()\n",
        "        fetch_returned(returned)\n",
        "runner/test_once.py::test_a_run_whose_worker_died_before_it_told_the_api_is_told_by_the_client",
    ),
    _row(
        "a result that a flow returns is left on the cluster",
        "task_runner/runner.py",
        "        fetch_returned(returned)\n        self._record()\n",
        "        self._record()\n",
        "runner/test_data.py::test_a_returned_result_outlives_the_cluster",
    ),
    _row(
        "tasks that a flow leaves behind stay Running",
        "task_runner/runner.py",
        "            endings = self._abandon()\n",
        "            self._abandon()\n",
        f"{_LOST}tasks_that_a_failing_flow_leaves_behind_are_cancelled",
    ),
    _row(
        "what a task does after it was given up is heard",
        "task_runner/time_limit.py",
        "            if self._given_up:\n                return False\n",
        "",
        "unit/test_time_limit.py::test_what_a_task_does_after_it_was_given_up_is_not_heard",
    ),
    _row(
        "states go to the API in another order than they came",
        "task_runner/event_batches.py",
        "[event for _, event in sorted(taken, key=lambda entry: entry[0])]",
        "[event for _, event in sorted(taken, key=lambda entry: -entry[0])]",
        "unit/test_outbox.py::test_states_of_runs_that_go_on_go_in_the_order_in_which_they_came",
    ),
    # What tasks ask of the Prefect API through the flow's process
    _row(
        "the relay lets a request through that names another flow run",
        "relay/proof.py",
        "            if not await self.owns_flow_run(flow_run) and not (",
        "            if False and not (",
        "unit/test_relay_proof.py::test_what_others_have_is_refused",
    ),
    _row(
        "an event may set the state of another flow run's task",
        "relay/proof.py",
        '                    raise _foreign("task run", found["id"])\n',
        "                    continue\n",
        "unit/test_relay_proof.py::test_a_task_run_of_another_flow_run_is_refused",
    ),
    _row(
        "a task reads a block that holds an account",
        "relay/kept_blocks.py",
        '*_kinds_inside(document["data"]), ',
        "",
        "unit/test_relay_kept_blocks.py::test_what_opens_an_account_is_refused_wherever_it_is",
    ),
    _row(
        "a task reads the credentials that an account refers to",
        "relay/kept_blocks.py",
        "    if ids & await _of_accounts(read):\n",
        "    if False:\n",
        "unit/test_relay_kept_blocks.py::test_the_credentials_of_an_account_are_refused_wherever_they_are",
    ),
    _row(
        "a path is sent as it came",
        "relay/rules.py",
        r'or re.search(r"[/\\%;\x00-\x1f\x7f\ufffd]", part)',
        "or False",
        "unit/test_relay_rules.py::test_a_path_that_could_be_read_in_two_ways_is_refused",
    ),
    _row(
        "a subflow may be started in a work pool",
        "relay/bodies.py",
        '    "work_pool_name",\n',
        "",
        "unit/test_relay_rules.py::test_a_flow_run_that_is_no_subflow_is_not_made",
    ),
    _row(
        "any program of a machine may use its forwarder",
        "relay/forwarder.py",
        'return kind in ("Basic", "Bearer") and is_same(said.strip(), wanted)',
        'return kind in ("Basic", "Bearer")',
        "unit/test_relay_forwarder.py::test_who_does_not_know_the_token_asks_nothing",
    ),
    _row(
        "tasks get the key of the API with their settings",
        "task_runner/worker_settings.py",
        'timeout = {"request_timeout": values.pop("api", {}).get("request_timeout", _TIMEOUT)}',
        'timeout = settings.serialize()["settings"]["api"]',
        "unit/test_worker_settings.py::test_settings_for_a_relay_hold_no_secret",
    ),
    _row(
        "a request that got lost on its way is not taken again",
        "relay/exchange.py",
        "        box.taken = set(have)\n",
        "        box.taken.update(have)\n",
        "unit/test_relay_exchange.py::test_what_was_taken_and_got_lost_is_taken_again",
    ),
    _row(
        "anybody takes what the tasks of a flow run ask",
        "relay/exchange.py",
        "        if not _owns(box, owner) or box.over:\n",
        "        if box.over:\n",
        "unit/test_relay_exchange.py::test_nobody_else_takes_or_answers_or_ends",
    ),
    _row(
        "keys travel to tasks within the settings of their relay",
        "task_runner/worker_settings.py",
        "        if isinstance(held, (Secret, SecretStr, SecretBytes)):\n            continue\n",
        "",
        "unit/test_worker_settings.py::test_a_secret_of_a_setting_that_is_not_known_here_stays_with_the_client",
    ),
    _row(
        "tasks read what others put in for their machines",
        "relay/answering.py",
        '{"job_variables": None, "infrastructure_pid": None}',
        '{"infrastructure_pid": None}',
        "unit/test_relay_answering.py::test_what_may_hold_others_secrets_is_left_out",
    ),
    # Workers that are replaced
    _row(
        "any machine launches by the templates of any cluster",
        "plan/machine_policies.py",
        '("LaunchByOwnTemplate", ["ec2:RunInstances"], templates, own)',
        '("LaunchByOwnTemplate", ["ec2:RunInstances"], templates, None)',
        f"{_KEPT}nobody_but_the_scheduler_of_the_cluster_launches_by_its_templates",
    ),
    _row(
        "a scheduler launches what its template does not say",
        "plan/machine_policies.py",
        ', "Bool": {"ec2:IsLaunchTemplateResource": "true"}}',
        "}",
        f"{_KEPT}the_scheduler_launches_nothing_but_what_its_template_says",
    ),
    _row(
        "what a scheduler launches while its cluster is removed is left",
        "provision/cluster_removal.py",
        "    late = sorted({machine.instance_id for machine in found} - set(known))\n",
        "    late: list[str] = []\n",
        f"{_KEPT}a_worker_that_the_scheduler_launches_while_its_cluster_is_removed_goes_too",
    ),
    _row(
        "what was scaled down is grown back",
        "node/keeping.py",
        "            self.wanted = max(wanted, 0)\n",
        "            self.wanted = max(wanted, self.wanted)\n",
        "unit/test_keeping.py::test_what_was_scaled_down_is_not_grown_back",
    ),
    _row(
        "workers are launched beside a client that scales",
        "node/keeping.py",
        "        return any(one != but and now - since < HOLD_S for one, since in self._held.items())\n",
        "        return False\n",
        "unit/test_keeping.py::test_nothing_is_launched_beside_a_client_that_scales",
        "unit/test_keeper_launches.py::test_one_client_launches_at_a_time",
    ),
    _row(
        "workers that came back after they were replaced stay beside their replacements",
        "node/keeper.py",
        "            over = self._adapting is None and keeping.excess_due(now)\n",
        "            over = False\n",
        "unit/test_keeper_launches.py::test_what_came_back_after_it_was_replaced_is_let_go",
    ),
    _row(
        "who is at work is let go as one too many",
        "node/scheduler.py",
        " str(state.name) for state in self.workers.values() if state.processing or state.actors\n",
        " str(state.name) for state in self.workers.values() if state.actors\n",
        "unit/test_renewed.py::test_workers_that_are_too_many_are_let_go_once_they_have_nothing_to_do",
    ),
    _row(
        "a cluster counts as ended while its next record is on its way",
        "plan/spending.py",
        "        late = timedelta(seconds=self.last.good_for + max(self.last.good_for, _LATE_S))\n",
        "        late = timedelta(seconds=self.last.good_for)\n",
        "unit/test_budget.py::test_a_cluster_that_runs_counts_until_its_next_record_is_long_overdue",
    ),
    _row(
        "a replacement that is sent again has a new token",
        "node/keeper.py",
        "str(self._serial))",
        'str(__import__("secrets").token_hex(8)))',
        "cluster/test_kept.py::test_a_launch_whose_reply_is_lost_launches_nothing_twice",
    ),
    _row(
        "machines that hang are replaced again and again",
        "node/keeping.py",
        "max(min(self.wanted - len(alive - lost), 2 * self.wanted - len(alive)), 0)",
        "max(self.wanted - len(alive - lost), 0)",
        "unit/test_keeping.py::test_machines_that_hang_are_replaced_once_and_no_more",
    ),
    _row(
        "a machine that AWS takes back is replaced once it is gone",
        "node/scheduler.py",
        "            self.keeper.keeping.announced(time.monotonic(), map(str, msg))\n",
        "            pass\n",
        "cluster/test_spot.py::test_a_machine_is_replaced_while_it_hands_over_and_counts_no_more",
    ),
    _row(
        "machines that AWS takes back count as those that were asked for",
        "cluster/scaling.py",
        "                self._fleet.away(name, for_good=True)\n            return\n",
        "                pass\n            return\n",
        "cluster/test_spot.py::test_a_machine_is_replaced_while_it_hands_over_and_counts_no_more",
    ),
    _row(
        "nothing is moved away from a machine that AWS takes back",
        "node/agent.py",
        "                self._child.drain()\n",
        "",
        "node/test_life.py::test_a_spot_notice_moves_results_to_another_worker_first",
    ),
    # What a cluster may cost
    _row(
        "a cluster that has cost what it may runs on",
        "node/scheduler.py",
        '            reason = "cost-limit"\n',
        "            pass\n",
        "node/test_life.py::test_a_cluster_ends_before_it_costs_more_than_it_may_with_or_without_clients",
    ),
    _row(
        "machines that are gone have cost nothing",
        "node/meter.py",
        "        self.spent += len(here - self._known) * (BEFORE + AFTER) * self._worker\n",
        "",
        "unit/test_lid.py::test_the_meter_counts_each_machine_that_was_there_by_its_time",
    ),
    _row(
        "a cluster is scaled beyond what it may cost an hour",
        "cluster/scaling.py",
        "        if most is not None and size > most:\n            raise OptionsError(",
        "        if False:\n            raise OptionsError(",
        "cluster/test_ends.py::test_what_a_cluster_may_cost_an_hour_bounds_its_types_and_its_size",
    ),
    _row(
        "a lid is held to the prices of another region",
        "plan/lid.py",
        "    if prices.region != region:\n",
        "    if False:\n",
        "cluster/test_prices.py::test_where_the_price_list_may_not_be_read_a_lid_is_refused_and_a_cluster_says_whose_"
        "prices_it_tells",
    ),
    _row(
        "a type that a region does not sell keeps a lid from all others",
        "plan/lid.py",
        "for one in sold or types}",
        "for one in types}",
        f"{_PRICES}a_type_that_is_not_sold_there_is_left_out_of_what_a_lid_chooses_from",
    ),
    _row(
        "a price that is asked for takes those that somebody else asked for",
        "aws/price_list.py",
        "known = {**_seen.get(_place(aws), {}), **found}\n",
        "known = found\n",
        f"{_PRICES}who_asks_meanwhile_for_other_types_loses_none",
    ),
    _row(
        "a lid does not count machines that have not joined",
        "node/ledger.py",
        "            self._listed(time.monotonic(), record.usd, record.usd_per_hour)\n",
        "            pass\n",
        "cluster/test_prices.py::test_machines_that_boot_without_end_count_against_a_lid",
    ),
    _row(
        "a stop that comes as a container starts is lost",
        "plan/container.sh",
        '  [ -z "$STOPPED" ] || kill -TERM "$NODE" 2>/dev/null || : # asked for as it was started\n',
        "",
        "node/test_container.py::test_a_signal_that_comes_as_the_container_starts_ends_it",
    ),
    # The sandbox that all of this is tried on
    _row(
        "the sandbox's IAM lets everything through",
        "sandbox/iam/evaluator.py",
        "                if not verdict.allowed:\n",
        "                if False:\n",
        "sandbox/test_iam.py::test_what_is_made_without_our_tags_is_refused",
    ),
    _row(
        "an explicit deny does not win in the sandbox",
        "sandbox/iam/decide.py",
        '                return Verdict(False, "with an explicit deny in an identity-based policy", True)\n',
        "                continue\n",
        "sandbox/test_iam.py::test_an_explicit_deny_wins",
    ),
    _row(
        "the sandbox takes calls that are not signed with the secret key",
        "sandbox/signatures.py",
        "return hmac.compare_digest(key.hex(), self.value) and self._is_as_hashed(environ)",
        "return self._is_as_hashed(environ)",
        "sandbox/test_doors.py::test_a_call_that_is_not_signed_with_the_secret_key_is_refused",
    ),
    # Absence, and the last word
    _row(
        "one list of AWS's that lacks a machine ends it",
        "cluster/fleet.py",
        "| (missed & self._missed)",
        "| missed",
        "unit/test_fleet.py::test_one_list_that_lacks_machines_ends_none",
    ),
    _row(
        "a visit between two looks counts from the one before",
        "node/scheduler.py",
        "        self._heard = time.monotonic()\n        self._timers.client_came()\n",
        "        self._timers.client_came()\n",
        "unit/test_short_visits.py::test_the_count_begins_with_the_visit_and_not_with_the_one_before",
    ),
    _row(
        "an old size is asked for again after a smaller one",
        "cluster/scaling.py",
        "            self._counted_on = 0, frozenset()  # another size than what was asked for by number\n",
        "",
        "unit/test_sizes_asked_for.py::test_a_size_by_retiring_workers_is_a_later_word",
    ),
    _row(
        "a cluster that is to stay stays though it did not come up",
        "cluster/cluster.py",
        "            ends = not self.launched.attached\n",
        "            pass\n",
        "cluster/test_ends.py::test_one_that_is_to_stay_and_does_not_come_up_does_not_stay",
        "cluster/test_ends.py::test_who_cannot_use_a_cluster_of_others_does_not_end_it",
    ),
    _row(
        "a slot is given back by a lease that the API has lost",
        "provision/slots.py",
        "        if self._is_leased(client):\n            lease_id",
        "        if self.lease_id is not None:\n            lease_id",
        "unit/test_slots.py::test_a_slot_is_given_back_to_an_api_that_has_lost_its_lease",
    ),
    _row(
        "a lease whose reply was lost counts from now",
        "aws/leases.py",
        "        begun -= age\n",
        "",
        f"{_OURS}a_lease_counts_from_when_it_was_written_though_the_reply_was_lost",
    ),
    _row(
        "a task that was given up is tried again",
        "task_runner/time_limit.py",
        "    task.retries = 0\n",
        "",
        "runner/test_faithful.py::test_a_task_that_was_given_up_is_not_tried_again_and_its_hook_is_called_at_once",
    ),
    _row(
        "the parameters of the task that submits go along",
        "task_runner/parcel.py",
        'parent.model_copy(update={"parameters": {}}).serialize()',
        "parent.serialize()",
        "runner/test_what_travels.py::test_the_parameters_of_the_task_that_submits_stay_where_they_are",
    ),
)
