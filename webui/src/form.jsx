// A form that is sent once at a time, and tells beside it what the server refused.
import { useState } from 'preact/hooks'
import { refresh } from './poll.js'
import { say } from './toast.jsx'

// {send, busy, told}: `act(elements, form)` makes the calls, and gives what to say, if anything.
export function useForm(act) {
  const [trouble, setTrouble] = useState('')
  const [busy, setBusy] = useState(false)
  const send = async (event) => {
    event.preventDefault()
    if (busy) return
    setBusy(true)
    const form = event.currentTarget
    try {
      const words = await act(form.elements, form)
      setTrouble('')
      if (words) say(words)
      await refresh()
    } catch (error) {
      if (error.status === undefined) throw error
      setTrouble(Object.values(error.fields)[0] || error.message)
    } finally {
      setBusy(false)
    }
  }
  const told = trouble && (
    <span class="trouble" role="alert">
      {trouble}
    </span>
  )
  return { send, busy, told }
}
