// Who are you? Shown while the server refuses this tab's token.
import { useEffect, useRef, useState } from 'preact/hooks'
import { locked, unlock } from '../poll.js'

export function Login() {
  const field = useRef(null)
  const [busy, setBusy] = useState(false)
  useEffect(() => field.current.focus(), [])
  const submit = async (event) => {
    event.preventDefault()
    const text = field.current.value.trim()
    if (!text) return
    setBusy(true)
    await unlock(text)
    setBusy(false)
  }
  return (
    <form class="login" onSubmit={submit}>
      <img src="/favicon.svg" alt="" width="32" height="32" />
      <h1>Coalition</h1>
      <p role="status">{locked.value}</p>
      <label for="token">API token</label>
      <input id="token" ref={field} type="password" autocomplete="current-password" spellcheck={false} />
      <button type="submit" class="main" disabled={busy}>
        Sign in
      </button>
      <p class="hint">
        Whoever runs the farm can make one. It is kept in this tab only, and forgotten when the tab is closed.
      </p>
    </form>
  )
}
