// Budgets edited in place, with what a change will do shown before it is made.
import { useState } from 'preact/hooks'
import * as api from '../api.js'
import { Effect, amountOf, percents, sharesOf, useChange } from './change.jsx'

const WINDOWS = ['hour', 'day', 'week', 'month', 'total']

const fieldsOf = (form) => {
  const { amount, hard, alert } = form.elements
  return { amount_micro: amountOf(amount.value), hard: hard.checked, alert: sharesOf(alert.value) }
}

function Values({ of, amount = '', hard = true, alert = [0.5, 0.8, 1], currency }) {
  return (
    <>
      <label>
        cap <input name="amount" required inputMode="decimal" pattern="[0-9]+([.][0-9]+)?" size={8} defaultValue={amount} aria-label={`Cap ${of}`} /> {currency}
      </label>
      <label>
        <input type="checkbox" name="hard" defaultChecked={hard} /> starts nothing beyond it
      </label>
      <label>
        tells at <input name="alert" size={14} pattern="[0-9., %]*" defaultValue={percents(alert)} aria-label={`Alerts ${of}, shares of the cap in percent`} />
      </label>
    </>
  )
}

export function ChangeBudget({ budget, onDone }) {
  const { name, currency } = budget
  const { told, trouble, busy, look, save } = useChange((fields, how) => api.editBudget(name, fields, how), `Budget ${name} is changed`, onDone)
  return (
    <form
      class="limit-form budget-form"
      aria-label={`Change budget ${name}`}
      onInput={(event) => look(event.currentTarget.checkValidity() ? fieldsOf(event.currentTarget) : null)}
      onSubmit={(event) => {
        event.preventDefault()
        save(fieldsOf(event.currentTarget))
      }}
    >
      <Values of={`of ${name}`} amount={budget.cap_micro / 1e6} hard={budget.hard} alert={budget.alert} currency={currency} />
      <button type="submit" disabled={busy}>
        Change
      </button>
      <button type="button" onClick={onDone}>
        Cancel
      </button>
      <Effect told={told} trouble={trouble} currency={currency} />
    </form>
  )
}

function newFieldsOf(form) {
  const { name, currency, window, timezone, target } = form.elements
  return {
    ...fieldsOf(form),
    name: name.value.trim(),
    currency: currency.value.trim(),
    window: window.value,
    timezone: timezone.value.trim() || 'UTC',
    applies_to: target.value.trim() || 'farm',
  }
}

export function NewBudget({ currency }) {
  const [open, setOpen] = useState(false)
  const { told, trouble, busy, look, save } = useChange((fields, how) => api.createBudget(fields, how), 'The budget is made', () => setOpen(false))
  if (!open) {
    return (
      <button type="button" onClick={() => setOpen(true)}>
        New budget
      </button>
    )
  }
  return (
    <form
      class="limit-form budget-form"
      aria-label="New budget"
      onInput={(event) => look(event.currentTarget.checkValidity() ? newFieldsOf(event.currentTarget) : null)}
      onSubmit={(event) => {
        event.preventDefault()
        save(newFieldsOf(event.currentTarget))
      }}
    >
      <input name="name" required placeholder="Name" size={12} aria-label="Name of the new budget" />
      <label>
        for <input name="target" placeholder="farm, or pool:NAME, user:NAME, affinity:TAG" size={28} aria-label="What the new budget is for" />
      </label>
      <label>
        each{' '}
        <select name="window" defaultValue="month" aria-label="Window of the new budget">
          {WINDOWS.map((word) => (
            <option key={word} selected={word === 'month'}>
              {word}
            </option>
          ))}
        </select>
      </label>
      <input name="timezone" placeholder="UTC" size={12} aria-label="Time zone of the new budget" />
      <Values of="of the new budget" currency={<input name="currency" required defaultValue={currency} size={3} pattern="[A-Z]{3}" aria-label="Currency of the new budget" />} />
      <button type="submit" disabled={busy}>
        Make it
      </button>
      <button type="button" onClick={() => setOpen(false)}>
        Cancel
      </button>
      <Effect told={told} trouble={trouble} currency={currency} />
    </form>
  )
}
