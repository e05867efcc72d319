// What is common to the forms that change money: the answer of a rehearsal, in words, while one types.
import { useEffect, useRef, useState } from 'preact/hooks'
import { money, plural } from '../format.js'
import { refresh } from '../poll.js'
import { say } from '../toast.jsx'

const PAUSE_MS = 300
const MICRO = 1_000_000

export const amountOf = (text) => Math.round(Number(text) * MICRO)
export const sharesOf = (text) => (text.match(/[\d.]+/g) || []).map((share) => Number(share) / 100)
export const percents = (shares) => shares.map((share) => `${Math.round(100 * share)}%`).join(', ')

// {told, trouble, busy, look, save}: `act(fields, {dryRun})` is rehearsed after each change, and done by `save`.
export function useChange(act, words, onDone) {
  const [told, setTold] = useState(null)
  const [trouble, setTrouble] = useState('')
  const [busy, setBusy] = useState(false)
  const turn = useRef(0)
  useEffect(() => () => (turn.current = -1), [])
  const failed = (error) => {
    if (error.status === undefined) throw error
    setTold(null)
    setTrouble(Object.entries(error.fields).map(([field, text]) => `${field}: ${text}`).join('; ') || error.message)
  }
  // `fields` null: what is written cannot be asked about; what was told of something else is no more
  const look = async (fields) => {
    turn.current += 1
    const mine = turn.current
    setTold(null)
    if (!fields) return
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS))
    if (turn.current !== mine) return
    try {
      const answer = await act(fields, { dryRun: true })
      if (turn.current !== mine) return
      setTold(answer)
      setTrouble('')
    } catch (error) {
      if (turn.current === mine) failed(error)
    }
  }
  const save = async (fields) => {
    if (busy) return
    turn.current += 1
    setBusy(true)
    try {
      await act(fields, {})
      onDone()
      say(words)
      await refresh()
    } catch (error) {
      failed(error)
    } finally {
      setBusy(false)
    }
  }
  return { told, trouble, busy, look, save }
}

const poolWords = ({ pool, at_most: most }) => (most === null ? `pool ${pool} may start again` : `pool ${pool} may start up to ${plural(most, 'machine')}`)

function effectOf({ effect, after }, currency) {
  const lines = []
  if (effect.left_before_micro !== null && effect.left_micro !== null) {
    lines.push(`${money(effect.left_before_micro, currency)} left now, ${money(effect.left_micro, currency)} then.`)
  } else if (effect.left_micro !== null) lines.push(`${money(effect.left_micro, currency)} will be left.`)
  else if (after && !after.hard) lines.push('It will warn, and stop nothing.')
  if (effect.starts.length) lines.push(`With the next tick ${effect.starts.map(poolWords).join(', ')}.`)
  if (effect.stops.length) lines.push(`${plural(effect.stops.length, 'machine')} will not be paid on: what runs there has until the end of what is paid.`)
  if (effect.forbids) lines.push(`${effect.forbids}.`)
  return lines
}

// What a change will do, by the server's rehearsal.
export function Effect({ told, trouble, currency }) {
  if (trouble) {
    return (
      <p class="effect trouble" role="alert">
        {trouble}
      </p>
    )
  }
  if (!told) return null
  return (
    <p class="effect" role="status">
      {effectOf(told, currency).join(' ')}
    </p>
  )
}
