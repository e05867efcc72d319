// Settings: how the page looks here, one's password, and for admins users and tokens.
import { Section } from '../parts.jsx'
import { Password, Users } from '../settings/Users.jsx'
import { Tokens } from '../settings/Tokens.jsx'
import { density, setDensity, setTheme, theme } from '../theme.js'

function Choice({ name, value, words, onChoose }) {
  return (
    <fieldset class="choice">
      <legend>{name}</legend>
      {Object.entries(words).map(([key, word]) => (
        <label key={key}>
          <input type="radio" name={name} checked={value === key} onChange={() => onChoose(key)} /> {word}
        </label>
      ))}
    </fieldset>
  )
}

function Look() {
  return (
    <Section name="look" title="Look">
      <Choice name="Theme" value={theme.value} words={{ system: 'as the system', light: 'light', dark: 'dark' }} onChoose={setTheme} />
      <Choice name="Density" value={density.value} words={{ dense: 'dense', roomy: 'roomy' }} onChoose={setDensity} />
    </Section>
  )
}

export function Settings({ server }) {
  return (
    <>
      <Look />
      {server.auth === 'local' && server.csrf && <Password />}
      {server.rights?.includes('admin') && server.auth === 'local' && <Users me={server.user} />}
      {(server.rights ? server.rights.includes('admin') : server.role === 'admin') && <Tokens />}
      <Section name="about" title="Server">
        <p class="hint">
          {server.farm}, Coalition {server.version}, {server.auth === 'none' ? 'without log-in, for this machine only' : `log-in by ${server.auth}`}. {server.user && `You are ${server.user}, ${server.role}. `}
          <a href="/api/docs">The API</a>
        </p>
      </Section>
    </>
  )
}
